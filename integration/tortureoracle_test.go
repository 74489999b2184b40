package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// tortureWatch looks at the books at random instants while faults go on.
type tortureWatch struct {
	rig    *rig
	ctx    context.Context // ends with the watch
	cancel context.CancelFunc
	work   sync.WaitGroup

	// To be read after the end.
	clean, unanswered int // audits that found the books in order, and that got no answer
	wrong             []string
	deadlocks         int64 // seen by the test's goroutine
}

func (x *rig) startWatch() {
	w := &tortureWatch{rig: x}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.work.Go(w.auditOften)
	x.watch = w
	x.t.Cleanup(w.stop)
}

func (w *tortureWatch) stop() {
	w.cancel()
	w.work.Wait()
}

// auditOften runs `spendflush audit` at random instants. That Postgres can't be asked is all that
// may keep it from finding the books in order.
func (w *tortureWatch) auditOften() {
	rng := rand.New(rand.NewPCG(w.rig.options.seed, 99))
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-time.After(time.Duration(rng.Int64N(int64(3 * time.Second)))):
		}
		w.audit()
	}
}

func (w *tortureWatch) audit() {
	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Minute) // a table may be locked
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "audit")
	cmd.Env = w.rig.variables("DATABASE_URL="+w.rig.postgresURL, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"))
	output, err := cmd.CombinedOutput()
	text, status := string(output), cmd.ProcessState.ExitCode()
	switch {
	case w.ctx.Err() != nil:
	case ctx.Err() != nil:
		w.wrong = append(w.wrong, "an audit doesn't end")
	case err == nil:
		w.clean++
	case status != 1 || strings.Contains(text, "DO NOT ADD UP") || strings.Contains(text, "DATA RACE"):
		w.wrong = append(w.wrong, fmt.Sprintf("%v:\n%s", err, text))
	default:
		w.unanswered++
	}
}

// countDeadlocks counts the deadlocks that Postgres remembers. It has to be called before it
// forgets them.
func (w *tortureWatch) countDeadlocks() {
	_ = w.rig.database(func(ctx context.Context, conn *pgx.Conn) error { // no matter: its log is looked at too
		var n int64
		err := conn.QueryRow(ctx, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
		w.deadlocks = max(w.deadlocks, n)
		return err
	})
}

// warnings counts the warnings and errors that the instances have logged.
func (x *rig) warnings() (n int) {
	for _, r := range x.runs {
		n += r.stderr.count(`"level":"WARN"`) + r.stderr.count(`"level":"ERROR"`)
	}
	return n
}

func (o *output) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.text.Bytes(), []byte(text))
}

// awaitFewConnections waits until no instance has more connections to Postgres than it may have.
// Two more are the migration's at the start.
func (x *rig) awaitFewConnections() {
	x.t.Helper()
	x.await("connections to Postgres are within their bound", recoveryPatience, func() (missing string) {
		err := x.database(func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, `SELECT substring(application_name FROM 'pod-[0-9.]+'), count(*) FROM pg_stat_activity
				WHERE application_name LIKE '%pod-%' GROUP BY 1 HAVING count(*) > $1`, tortureConnections+2)
			if err != nil {
				return err
			}
			var name string
			var n int
			_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error {
				missing = fmt.Sprintf("%s has %d", name, n)
				return nil
			})
			return err
		})
		if err != nil {
			return err.Error()
		}
		return missing
	})
}

// unbooked returns how many entries in the queue aren't in Postgres, by the producer's text.
func (x *rig) unbooked() (map[string]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	type place struct {
		shard    int
		producer string
	}
	type entry struct {
		place
		sequence string
	}
	var entries []entry
	err := x.eachQueue(ctx, func(shard int, e redis.XMessage) {
		producer, _ := e.Values["p"].(string)
		sequence, _ := e.Values["s"].(string)
		entries = append(entries, entry{place{shard, producer}, sequence})
	})
	if err != nil {
		return nil, err
	}
	marks := map[place]uint64{}
	err = x.database(func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT shard, producer::text, sequence FROM spendflush.producers")
		if err != nil {
			return err
		}
		var of place
		var sequence uint64
		_, err = pgx.ForEachRow(rows, []any{&of.shard, &of.producer, &sequence}, func() error {
			marks[of] = sequence
			return nil
		})
		return err
	})
	left := map[string]int{}
	for _, e := range entries {
		if sequence, err := strconv.ParseUint(e.sequence, 10, 64); err != nil || sequence > marks[e.place] {
			left[e.producer]++
		}
	}
	return left, err
}

// noteSettled notes which ended runs have nothing in Redis any more: what happens to Redis later is
// nothing to them.
func (x *rig) noteSettled() {
	left, err := x.unbooked()
	if err != nil {
		return
	}
	for _, r := range x.runs {
		if !r.running() {
			r.settled = r.settled || left[r.producerID()] == 0
		}
	}
}

// producerID returns the producer's id as the run has logged it, "" if it hasn't yet.
func (r *podRun) producerID() string {
	if r.producer != "" {
		return r.producer
	}
	text, _ := r.stderr.look()
	for line := range strings.Lines(text) {
		var entry struct{ Producer string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Producer != "" {
			r.producer = entry.Producer
			break
		}
	}
	return r.producer
}

// finish ends the traffic, waits until everything is committed, stops the instances and compares
// the books.
func (x *rig) finish() {
	x.t.Helper()
	x.note("the end: no more faults, no more traffic")
	x.recover()
	known := x.clients.stop()
	x.recover()
	x.awaitEmptyQueue()
	x.checkScripts()
	for _, r := range x.alive() {
		x.askToStop(r, true)
	}
	for _, p := range x.places {
		x.awaitStop(p.run.Load())
	}
	x.watch.stop()
	for _, wrong := range x.watch.wrong {
		x.t.Errorf("audit in between: %s", wrong)
	}
	x.checkServers()
	x.note("everything has stopped; %d audits in between found the books in order, %d got no answer", x.watch.clean, x.watch.unanswered)
	x.compareBooks(known)
	x.audit()
	for _, r := range x.runs {
		r.stack.checkSecrets(r.process)
	}
	l := x.clients
	x.t.Logf("%d requests of %d clients to %d runs of instances: %d got no answer, %d were refused with 503, %d waited in vain",
		l.requests.Load(), len(l.clients), len(x.runs), l.lost.Load(), l.refused.Load(), l.late.Load())
}

// awaitEmptyQueue waits until nothing is in the queue that Postgres hasn't. Batches of runs that
// ended when Redis lost an earlier one can't be applied before that gap is passed.
func (x *rig) awaitEmptyQueue() {
	x.t.Helper()
	behind := 0
	took := x.await("the queue is empty", patience, func() string {
		left, err := x.unbooked()
		if err != nil {
			return err.Error()
		}
		behind = 0
		for _, r := range x.runs {
			if !x.gapGrace && r.exposed && !r.running() {
				behind += left[r.producerID()]
				delete(left, r.producerID())
			}
		}
		if len(left) > 0 {
			return fmt.Sprintf("entries by producer: %v", left)
		}
		return ""
	})
	x.note("the queue is empty after %s; behind gaps that this program doesn't pass: %d batches", took.Round(time.Millisecond), behind)
}

// compareBooks compares each run's part of the books with what its clients know.
func (x *rig) compareBooks(known map[*podRun]*[len(classes)]*ledger) {
	x.t.Helper()
	entities := split(x, x.readEntities(), func(k entity) string { return k.ID })
	hours := split(x, x.readHours(), func(k hourly) string { return k.APIKey })
	counted := map[string]int64{}
	for _, row := range query(x.t, x.stack.postgres, pgx.RowToStructByPos[struct {
		Producer string
		Updates  int64
	}], "SELECT producer::text, sum(updates)::bigint FROM spendflush.producers GROUP BY producer") {
		counted[row.Producer] = row.Updates
	}
	var total struct{ sent, recorded, booked, killed, exposed int64 }
	for _, r := range x.runs {
		var booked int64
		for class, l := range known[r] {
			prefix := r.prefixOf(class)
			x.checkRun(r, prefix, l, entities[prefix], hours[prefix])
			for k, got := range entities[prefix] {
				if k.Type == "api_key" { // every update has one
					booked += got.Requests
				}
			}
			total.sent += l.sent.updates
			total.recorded += l.recorded.updates
			delete(entities, prefix)
		}
		if n := counted[r.producerID()]; n != booked {
			x.t.Errorf("%s: its mark counts %d updates, and %d are in the books", r.name, n, booked)
		}
		delete(counted, r.producerID())
		total.booked += booked
		if r.killed {
			total.killed++
		}
		if r.exposed {
			total.exposed++
		}
	}
	if len(entities)+len(counted) > 0 {
		x.t.Errorf("in the books and of no run: %d prefixes, producers %v", len(entities), counted)
	}
	x.checkAside()
	x.t.Logf("%d updates sent, %d acknowledged, %d in the books; %d of %d runs killed, %d of those that ended had batches in Redis when it lost its data",
		total.sent, total.recorded, total.booked, total.killed, len(x.runs), total.exposed)
}

// split parts what is in the books by run and class.
func split[K comparable](x *rig, all map[K]sums, id func(K) string) map[string]map[K]sums {
	parts := map[string]map[K]sums{}
	for k, s := range all {
		prefix := runOf(id(k))
		if parts[prefix] == nil {
			parts[prefix] = map[K]sums{}
		}
		parts[prefix][k] = s
	}
	return parts
}

// checkRun compares the books of one run and class with what its clients know. Nothing may be above
// what was sent. At least there must be:
//
//	of a run that drained and stopped               everything acknowledged
//	of one that was killed                          what was acknowledged as queued or committed
//	of either, if Redis lost its data while batches
//	of it were only there                           what was acknowledged as committed
//
// A run that drained has everything that was sent, too, unless a request got no answer.
func (x *rig) checkRun(r *podRun, prefix string, l *ledger, entities map[entity]sums, hours map[hourly]sums) {
	x.t.Helper()
	least := l.recorded
	switch {
	case r.exposed:
		least = l.committed
	case r.killed:
		least = l.queued
	}
	name := fmt.Sprintf("%s (killed: %t, exposed: %t)", prefix, r.killed, r.exposed)
	checkBounds(x, name, least.entities, entities, l.sent.entities)
	checkBounds(x, name, least.hours, hours, l.sent.hours)
}

func checkBounds[K comparable](x *rig, name string, least, got, most map[K]sums) {
	x.t.Helper()
	const shown = 3
	wrong := 0
	for k := range got {
		if _, sent := most[k]; !sent {
			x.t.Errorf("%s: %+v is in the books and was never sent", name, k)
		}
	}
	for k, above := range most {
		if below, s := least[k], got[k]; !below.atMost(s) || !s.atMost(above) {
			if wrong++; wrong <= shown {
				x.t.Errorf("%s: %+v:\nat least %+v\nin books %+v\n at most %+v", name, k, below, s, above)
			}
		}
	}
	if wrong > 0 {
		x.t.Errorf("%s: %d of %d rows are wrong", name, wrong, len(most))
	}
}

// checkAside fails if anything is in quarantine, or given up that could still have come. What was
// passed while its producer got no processor, and has come since, is in the books.
func (x *rig) checkAside() {
	x.t.Helper()
	if n := x.number("SELECT count(*) FROM spendflush.quarantine"); n != 0 {
		x.t.Errorf("%d rows in quarantine", n)
	}

	names := map[string]*podRun{}
	for _, r := range x.runs {
		names[r.producerID()] = r
	}
	lost := query(x.t, x.stack.postgres, pgx.RowTo[string],
		"SELECT producer || ' in shard ' || shard || ', ' || first_sequence || ' to ' || last_sequence FROM spendflush.lost_batches WHERE found_at IS NULL")
	for _, batches := range lost {
		producer, _, _ := strings.Cut(batches, " ")
		if r := names[producer]; r == nil || !r.exposed {
			x.t.Errorf("batches of producer %s are given up as lost, and nothing of its was", batches)
		}
	}
	x.note("%d ranges of batches are given up as lost, and %d batches were until they came", len(lost),
		x.number("SELECT count(*) FROM spendflush.lost_batches WHERE found_at IS NOT NULL"))
}

// checkServers looks for what must not have happened in Postgres.
func (x *rig) checkServers() {
	x.t.Helper()
	x.watch.countDeadlocks()
	log, err := os.ReadFile(filepath.Join(x.server.postgres.Dir(), "postgres.log")) // of a couple, that of the last primary
	x.try("read Postgres's log", err)
	if n := bytes.Count(log, []byte("deadlock detected")); n > 0 || x.watch.deadlocks > 0 {
		x.t.Errorf("Postgres counted %d deadlocks and logged %d", x.watch.deadlocks, n)
	}
}
