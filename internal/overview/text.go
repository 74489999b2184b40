package overview

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spendflush/spendflush/internal/docpages"
	"github.com/spendflush/spendflush/internal/terminal"
)

// Text returns the report for people, line by line: the sentence, what to do, and tables. It is
// coloured as out has it, and nothing that an instance or a server says of itself can move the
// cursor.
func (r *Report) Text(out *terminal.Output) []string {
	lines := []string{paint(out, r.State, r.Sentence)}
	for _, p := range r.Problems {
		if len(r.Problems) > 1 { // one alone is the sentence
			lines = append(lines, "", paint(out, p.Severity, strings.ToUpper(string(p.Severity))+": "+p.What))
		}
		lines = append(lines, "  "+p.Do, out.Faint("  "+docpages.URL("runbook", p.Runbook)))
	}
	for _, part := range [][]string{r.instancesText(out), r.shardsText(), r.factsText()} {
		if len(part) > 0 {
			lines = append(append(lines, ""), part...)
		}
	}
	return lines
}

// Line returns the report in one line: when it was made, the state, the sentence and the numbers
// that tell most.
func (r *Report) Line() string {
	alive, held := 0, int64(0)
	for i := range r.Instances {
		if r.Instances[i].Alive {
			alive++
		}
		held += r.Instances[i].HeldUpdates
	}
	return plain(fmt.Sprintf("%s %s: %s instances=%d held_updates=%d queued_batches=%d booked_updates=%d quarantined=%d lost_batches=%d",
		r.AsOf.UTC().Format(time.RFC3339), r.State, r.Sentence, alive, held, r.Queue.Batches, r.Postgres.Updates, r.Quarantined, r.LostBatches))
}

func paint(out *terminal.Output, s State, text string) string {
	text = plain(text)
	switch s {
	case OK:
		return out.Good(text)
	case Warn:
		return out.Warn(text)
	default:
		return out.Bad(text)
	}
}

// plain takes out what could move the cursor of a terminal or break a table.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		default:
			return unicode.ReplacementChar
		}
	}, text)
}

// table aligns rows, whose cells are plain.
func table(rows [][]string) []string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, cells := range rows {
		for i := range cells {
			cells[i] = plain(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return strings.Split(strings.TrimRight(text.String(), "\n"), "\n")
}

func (r *Report) instancesText(out *terminal.Output) []string {
	switch {
	case !r.InstancesComplete && len(r.Instances) == 0:
		return []string{"Which instances there are is known from Redis alone."}
	case len(r.Instances) == 0:
		return []string{"No instance is heard from."}
	}
	rows := [][]string{{"INSTANCE", "STATE", "HELD UPDATES", "HELD DOLLARS", "UNCONFIRMED", "BEHIND", "STARTED", "VERSION"}}
	for i := range r.Instances {
		in := &r.Instances[i]
		rows = append(rows, []string{in.Instance, in.stateText(r.AsOf), fmt.Sprint(in.HeldUpdates), in.HeldAmount.String(),
			count(int64(in.Unconfirmed), "batch"), seconds(in.Behind), r.ago(in.StartedAt), in.Version})
	}
	lines := table(rows)
	for i := range r.Instances {
		if in := &r.Instances[i]; !in.Alive || in.Fallback || in.JournalFailing {
			lines[i+1] = out.Warn(lines[i+1])
		}
	}
	return lines
}

func (in *Instance) stateText(now time.Time) string {
	if !in.Alive {
		return "not heard from for " + seconds(now.Sub(in.SeenAt).Seconds())
	}
	text := "alive"
	if in.Fallback {
		text += ", writes directly"
	}
	if in.JournalFailing {
		text += ", can't write its journal"
	}
	return text
}

// ago says how long before the report that was.
func (r *Report) ago(t time.Time) string { return seconds(max(0, r.AsOf.Sub(t).Seconds())) + " ago" }

func (r *Report) shardsText() []string {
	if len(r.Queue.Shards) == 0 {
		return nil
	}
	rows := [][]string{{"SHARD", "QUEUED BATCHES", "SIZE", "OLDEST", "LOCK HOLDER", "HELD FOR"}}
	for _, q := range r.Queue.Shards {
		if q.Error != "" {
			rows = append(rows, []string{fmt.Sprint(q.Shard), "NOT REACHED", "-", "-", "?", "-"})
			continue
		}
		oldest, holder, held := "-", "nobody", "-"
		if q.Batches > 0 {
			oldest = seconds(q.Oldest)
		}
		for _, lock := range r.Locks {
			if lock.Shard == q.Shard && lock.Holder != "" {
				holder, held = lock.Holder, "?"
				if lock.Held != nil {
					held = seconds(*lock.Held)
				}
			}
		}
		rows = append(rows, []string{fmt.Sprint(q.Shard), fmt.Sprint(q.Batches), size(q.Bytes), oldest, holder, held})
	}
	return table(rows)
}

// size writes a number of bytes as people do.
func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
}

func (r *Report) factsText() []string {
	rows := [][]string{{"queue", r.queueText()}, {"last flush", r.lastFlushText()}}
	pg := &r.Postgres
	switch {
	case !pg.Up:
		return table(append(rows, []string{"Postgres", "NOT REACHED: " + pg.Error}))
	case !pg.Migrated:
		return table(append(rows, []string{"Postgres", "the tables are missing: " + pg.Error}))
	}
	rows = append(rows,
		[]string{"Postgres", fmt.Sprintf("%s, %d of %d connections", pg.Version, pg.Connections, pg.MaxConnections)},
		[]string{"books", fmt.Sprintf("%s of %s dollars", count(pg.Updates, "update"), pg.Amount)},
		[]string{"ids", r.idsText()},
		[]string{"quarantine", r.quarantineText()},
		[]string{"lost batches", r.lostText()},
		[]string{"last audit", r.auditText()})
	return table(rows)
}

func (r *Report) queueText() string {
	q := &r.Queue
	switch {
	case q.Left > 0:
		return fmt.Sprintf("NOT USED, but %s in the Redis that is switched off", count(q.Left, "batch"))
	case !q.Used && q.Error != "":
		return "not used; what lies in it isn't known: " + q.Error
	case !q.Used:
		return "not used: instances write to Postgres directly"
	case !q.Up:
		return "NOT REACHED: " + q.Error
	}
	text := fmt.Sprintf("%s, %s", count(q.Batches, "batch"), size(q.Bytes))
	if q.MaxBytes > 0 {
		text += " of " + size(q.MaxBytes)
	}
	if q.Replica {
		text += "; READONLY: a replica"
	}
	if q.Error != "" {
		text += "; NOT REACHED for every shard: " + q.Error
	}
	return text
}

func (r *Report) lastFlushText() string {
	if len(r.Flushes) == 0 {
		return "none that an instance tells of"
	}
	f := &r.Flushes[0]
	from := "from the queue"
	if f.Path == "direct" {
		from = "directly"
	}
	return fmt.Sprintf("%s by %s, %s: %s of %s dollars, %s, %s, in %.3f s", r.ago(f.At), f.Instance, from, count(f.Updates, "update"),
		f.Amount, count(int64(f.Batches), "batch"), count(int64(f.Rows), "row"), f.Seconds)
}

func (r *Report) quarantineText() string {
	if r.Quarantined == 0 {
		return "nothing open"
	}
	text := count(r.Quarantined, "entry") + " open"
	if r.Conflicts > 0 {
		text += ", " + count(r.Conflicts, "conflict") + " of ids among them"
	}
	return text + `, see "spendflush quarantine list"`
}

func (r *Report) lostText() string {
	if r.LostBatches == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, the last noticed %s", r.LostBatches, r.ago(r.LastLost))
}

func (r *Report) auditText() string {
	a := r.LastAudit
	if a == nil {
		return `none yet, see "spendflush audit"`
	}
	verdict := "the books added up"
	if !a.OK {
		verdict = "THE BOOKS DID NOT ADD UP"
	}
	return fmt.Sprintf("%s, %s, in %s", verdict, r.ago(a.At), seconds(a.Took))
}
