package quarantine

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Store is where the quarantine is; *pgstore.Store is one.
type Store interface {
	QuarantinedEntry(ctx context.Context, id int64) (pgstore.Quarantined, error)
	QuarantinedBytes(ctx context.Context, id int64) ([]byte, error)
	ApplyQuarantined(ctx context.Context, id int64, by string) error
	DropQuarantined(ctx context.Context, id int64, by string) error
	Marks(ctx context.Context, shard int, producers []spend.ProducerID) (spend.Marks, error)
}

// Look reads all that can be shown of one entry, settled or not. The error wraps
// sql.ErrNotQuarantined if there is none of this id.
func Look(ctx context.Context, store Store, id int64) (*View, error) {
	q, err := store.QuarantinedEntry(ctx, id)
	if err != nil {
		return nil, err
	}
	v := &View{entry: &q}
	if q.Kind == "row" {
		return v, nil
	}
	bytes, err := store.QuarantinedBytes(ctx, id)
	if err != nil {
		return nil, err
	}
	v.read(bytes)
	if q.Sequence > 0 {
		v.at, err = standingOf(ctx, store, &q)
	}
	return v, err
}

// standing is how far the producer of a batch is in the books.
type standing struct {
	spend.Mark
	forgotten bool // its mark may have been cleaned up
}

func standingOf(ctx context.Context, store Store, q *pgstore.Quarantined) (standing, error) {
	marks, err := store.Marks(ctx, q.Shard, []spend.ProducerID{q.Producer})
	return standing{marks.Of[q.Producer], marks.Pruned(q.Producer)}, err
}

// View is what is shown of one entry.
type View struct {
	entry *pgstore.Quarantined
	at    standing // of the producer of a batch

	bytes []byte       // of a batch
	batch *spend.Batch // nil if its header can't be read
	rows  *spend.Rows  // nil if they can't be read
	fault error        // why not
}

func (v *View) read(bytes []byte) {
	v.bytes = bytes
	v.batch, v.fault = spend.ParseBatch(bytes)
	if v.fault == nil {
		v.rows, v.fault = v.batch.Rows()
	}
}

// firstBytes is how many bytes are shown of a batch that can't be read.
const firstBytes = 512

// Print writes it for people.
func (v *View) Print(to io.Writer) error {
	q := v.entry
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "entry\t%d, a %s of shard %d\n", q.ID, q.Kind, q.Shard)
	fmt.Fprintf(w, "what\t%s\n", Describe(q))
	fmt.Fprintf(w, "reason\t%s\n", Printable(q.Reason))
	fmt.Fprintf(w, "since\t%s\n", q.CreatedAt.UTC().Format(time.RFC3339))
	if q.Kind == "row" {
		printCounters(w, q.Book, &q.Counters)
	} else {
		v.printHeader(w)
	}
	if q.State == "open" {
		fmt.Fprintf(w, "state\topen: %s\n", v.advice())
	} else {
		fmt.Fprintf(w, "state\t%s at %s%s\n", q.State, q.SettledAt.UTC().Format(time.RFC3339), byWhom(q))
	}
	if err := w.Flush(); err != nil || q.Kind == "row" {
		return err
	}
	if v.rows == nil {
		shown := v.bytes[:min(len(v.bytes), firstBytes)]
		_, err := fmt.Fprintf(to, "\nits first %d bytes:\n%s", len(shown), hex.Dump(shown))
		return err
	}
	if err := v.printIDs(to); err != nil {
		return err
	}
	return v.printRows(to)
}

func printCounters(w io.Writer, book string, c *spend.Counters) {
	fmt.Fprintf(w, "book\t%s\n", book)
	fmt.Fprintf(w, "dollars\t%s\n", c.Spend)
	for i, name := range spend.CountNames() {
		fmt.Fprintf(w, "%s\t%d\n", strings.ReplaceAll(name, "_", " "), *c.Count(i))
	}
}

func (v *View) printHeader(w io.Writer) {
	fmt.Fprintf(w, "size\t%d bytes\n", len(v.bytes))
	if v.fault != nil {
		fmt.Fprintf(w, "unreadable\t%s\n", Printable(v.fault.Error()))
	}
	if b := v.batch; b != nil {
		fmt.Fprintf(w, "header\tversion %d, shard %d, sealed at %s\n", b.Version, b.Shard, b.SealedAt.UTC().Format(time.RFC3339Nano))
		fmt.Fprintf(w, "producer\t%s, started at %s\n", b.Producer, b.Producer.Born().UTC().Format(time.RFC3339))
		fmt.Fprintf(w, "sequence\t%d; in the books is everything of this producer up to %d\n", b.Sequence, v.at.Sequence)
		fmt.Fprintf(w, "digest\t%x; of the batch before it %x\n", b.Digest(), b.PriorDigest)
		fmt.Fprintf(w, "counts\t%s dollars in %d updates; %d totals, %d rollup rows\n", b.Amount, b.Updates, b.Totals, b.Rollups)
	}
}

// advice says what can be done about an open entry.
func (v *View) advice() string {
	id := v.entry.ID
	switch {
	case v.entry.Kind == "row":
		return fmt.Sprintf(`mend what the reason says, then "spendflush quarantine apply %d"`, id)
	case v.entry.Kind == "conflict":
		return fmt.Sprintf(`a caller has used ids twice, for different things. "spendflush quarantine drop %d" if it is one thing, and what was booked `+
			`first is right; "spendflush quarantine apply %[1]d" if it is another one: these are booked, too, beside what was first`, id)
	case v.entry.Sequence > 0:
		return turn(v.entry, v.at)
	case v.rows != nil:
		return notSigned(id) // what its header says wasn't believed when it was set aside
	default:
		return damaged(id)
	}
}

// turn says whether it is a batch's turn when its producer stands there.
func turn(q *pgstore.Quarantined, at standing) string {
	mark := at.Sequence
	switch {
	case at.forgotten:
		return fmt.Sprintf(`its producer's marks were cleaned up long ago, so nobody can tell whether it is in the books: only if you know `+
			`that it isn't, "spendflush quarantine apply %d", else "spendflush quarantine drop %[1]d"`, q.ID)
	case q.Unclaimed:
		return fmt.Sprintf(`its producer was cloned, or put back to an earlier state, and another batch may have its place in the books. The reason `+
			`says whether it is known not to be booked: then, or if you know, "spendflush quarantine apply %d", which books it once; `+
			`else "spendflush quarantine drop %[1]d"`, q.ID)
	case at.HasQuarantined(q.Sequence):
		return fmt.Sprintf(`not in the books, and its producer has left it to the quarantine: "spendflush quarantine apply %d"`, q.ID)
	case at.Has(q.Sequence):
		return booked(q.ID)
	case q.Sequence > mark+1:
		missing := fmt.Sprintf("batches %d to %d", mark+1, q.Sequence-1)
		if mark+1 == q.Sequence-1 {
			missing = fmt.Sprintf("batch %d", mark+1)
		}
		return missing + " of its producer must be in the books before it: apply that first, or wait for the producer to send it"
	default:
		return fmt.Sprintf(`not in the books; if its producer doesn't send it again: "spendflush quarantine apply %d"`, q.ID)
	}
}

// booked says what to do about a batch that came to the books in another way.
func booked(id int64) string {
	return fmt.Sprintf(`already in the books, because its producer sent it again; drop it with "spendflush quarantine drop %d"`, id)
}

// damaged says what to do about a batch that can't be read.
func damaged(id int64) string {
	return fmt.Sprintf(`its producer, while it lives, sends the batch again by itself; drop this copy with "spendflush quarantine drop %d"`, id)
}

// notSigned says what to do about a batch that no key of the deployment has signed.
func notSigned(id int64) string {
	return fmt.Sprintf(`it may be forged. Only if you know which instance has sealed it, without a key or with another one: `+
		`"spendflush quarantine apply %d" with SPENDFLUSH_QUEUE_KEY_ACCEPTED set to unsigned or to that key, else "spendflush quarantine drop %[1]d"`, id)
}

// counterHeads are the heads of a table of counters: what they are called, without what stands
// behind all of its kind.
var counterHeads = func() string {
	heads := []string{"DOLLARS"}
	for _, name := range spend.CountNames() {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_requests"), "_tokens"), "_input")
		heads = append(heads, strings.ToUpper(strings.ReplaceAll(name, "_", " ")))
	}
	return strings.Join(heads, "\t")
}()

func counterCells(c *spend.Counters) string {
	cells := c.Spend.String()
	for i := range spend.Counts {
		cells += fmt.Sprintf("\t%d", *c.Count(i))
	}
	return cells
}

func (v *View) printRows(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nTOTAL OF\t"+counterHeads)
	for i := range v.rows.Totals {
		row := &v.rows.Totals[i]
		fmt.Fprintf(w, "%s\t%s\n", describeEntity(&row.Entity), counterCells(&row.Counters))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nHOUR\tROLLUP OF\t"+counterHeads)
	for i := range v.rows.Rollups {
		row := &v.rows.Rollups[i]
		series := row.Series()
		fmt.Fprintf(w, "%s\t%s\t%s\n", hourText(row.Hour.Time()), describeSeries(&series), counterCells(&row.Counters))
	}
	return w.Flush()
}

// ViewJSON is an entry as programs see it and, of a batch, what is in it.
type ViewJSON struct {
	*Entry
	Advice     string       `json:"advice,omitempty"` // of an open entry: what can be done
	Mark       *uint64      `json:"mark,omitempty"`   // of its producer: the last sequence that is in the books
	Header     *headerJSON  `json:"header,omitempty"`
	IDs        []idJSON     `json:"ids,omitempty"`     // of a batch of facts, the first of them
	AllIDs     int          `json:"all_ids,omitempty"` // how many it has
	Totals     []totalJSON  `json:"totals,omitempty"`
	Rollups    []rollupJSON `json:"rollups,omitempty"`
	Unreadable string       `json:"unreadable,omitempty"`  // why there is no header, or no rows
	FirstBytes string       `json:"first_bytes,omitempty"` // hexadecimal, of at most 512
}

type headerJSON struct {
	Version  uint8        `json:"version"`
	Shard    int          `json:"shard"`
	Producer string       `json:"producer"`
	Sequence uint64       `json:"sequence"`
	Digest   string       `json:"digest"` // hexadecimal, of this batch and all before it
	Prior    string       `json:"prior_digest"`
	SealedAt time.Time    `json:"sealed_at"`
	Updates  int64        `json:"updates"`
	Spend    spend.Amount `json:"spend"`
	Totals   int          `json:"totals"`
	Rollups  int          `json:"rollups"`
}

type totalJSON struct {
	*entityJSON
	Spend spend.Amount `json:"spend"`
	*Counts
}

type rollupJSON struct {
	Hour   time.Time     `json:"hour"`
	Series *spend.Series `json:"series"`
	Spend  spend.Amount  `json:"spend"`
	*Counts
}

func hexOf(d spend.Digest) string { return hex.EncodeToString(d[:]) }

// JSON returns it for programs.
func (v *View) JSON() ViewJSON {
	j := ViewJSON{Entry: EntryOf(v.entry)}
	if v.entry.State == "open" {
		j.Advice = v.advice()
	}
	if v.entry.Sequence > 0 {
		j.Mark = &v.at.Sequence
	}
	if b := v.batch; b != nil {
		j.Header = &headerJSON{
			b.Version, b.Shard, b.Producer.String(), b.Sequence, hexOf(b.Digest()), hexOf(b.PriorDigest), b.SealedAt.UTC(), b.Updates,
			b.Amount, b.Totals, b.Rollups,
		}
	}
	if v.fault != nil {
		j.Unreadable, j.FirstBytes = v.fault.Error(), hex.EncodeToString(v.bytes[:min(len(v.bytes), firstBytes)])
	}
	if v.rows == nil {
		return j
	}
	j.IDs, j.AllIDs = v.ids()
	for i := range v.rows.Totals {
		row := &v.rows.Totals[i]
		j.Totals = append(j.Totals, totalJSON{entityJSONOf(&row.Entity), row.Counters.Spend, CountsOf(&row.Counters)})
	}
	for i := range v.rows.Rollups {
		row := &v.rows.Rollups[i]
		series := row.Series()
		j.Rollups = append(j.Rollups, rollupJSON{row.Hour.Time(), &series, row.Counters.Spend, CountsOf(&row.Counters)})
	}
	return j
}
