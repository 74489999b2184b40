package pgstore

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

// named is an update of one dollar under an id.
type named struct {
	id, key string
	content spend.Fingerprint
}

func ids(list ...string) (facts []named) {
	for _, id := range list {
		facts = append(facts, named{id, "k", 1})
	}
	return facts
}

// factChain is the batches of facts of one producer.
type factChain struct{ spend.Header }

func newFacts(shard int) *factChain {
	return &factChain{spend.Header{Shard: shard, Producer: newProducer(), Books: testBooks}}
}

func (c *factChain) seal(t testing.TB, facts ...named) *spend.Batch {
	t.Helper()
	var b spend.FactBatch
	for _, f := range facts {
		series := spend.Series{APIKey: f.key, TeamID: "team"}
		canonical := spend.CanonicalSeries(series.AppendCanonical(nil, spend.AllDimensions))
		part := spend.FactPart{Series: canonical, Key: canonical.Key(), Hour: noon, Counters: one("1")}
		if !b.Add(spend.NewFactID(spend.UpdateFact, f.id), f.content, true, part) {
			t.Fatal("a fact doesn't fit")
		}
	}
	c.Sequence++
	sealed := b.Seal(&spend.BatchKeys{}, c.Header)
	c.PriorDigest, c.PriorUpdates, c.PriorAmount = sealed.Digest(), c.PriorUpdates+sealed.Updates, c.PriorAmount.Add(sealed.Amount)
	return sealed
}

func alone(t testing.TB, b *spend.Batch, mark spend.Mark) *spend.Flush {
	t.Helper()
	f, err := b.Flush(mark)
	if err != nil {
		t.Fatal(err)
	}
	f.Outcome = new([]spend.TakenOut)
	return f
}

// commitFacts commits facts as the first batch of a new producer, and returns how many updates were
// taken out as repeats.
func commitFacts(t testing.TB, s *Store, facts ...named) (repeats int64) {
	t.Helper()
	f := alone(t, newFacts(0).seal(t, facts...), spend.Mark{})
	apply(t, s, f)
	return repeatsIn(*f.Outcome)
}

func repeatsIn(outcome []spend.TakenOut) (n int64) {
	for _, out := range outcome {
		for _, r := range out.Ranges {
			if !r.Conflict {
				n += r.Updates
			}
		}
	}
	return n
}

func wantRepeats(t testing.TB, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%d updates were taken out as repeats, want %d", got, want)
	}
}

// onStatement calls do before the n-th time that the statement is sent.
func onStatement(s *Store, name string, do func(time int)) {
	var mu sync.Mutex
	n, inside := 0, false
	s.statement = func(asked string) string {
		mu.Lock()
		hit := asked == name && !inside
		if hit {
			n, inside = n+1, true
		}
		at := n
		mu.Unlock()
		if hit {
			do(at)
			mu.Lock()
			inside = false
			mu.Unlock()
		}
		return embedded.get(asked)
	}
}

func TestAFlushThatWasFasterIsSeenAndItsIDsCountOnce(t *testing.T) {
	databaseURL := database(t)
	s, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	onStatement(s, "begin", func(n int) {
		if n == 1 {
			wantRepeats(t, commitFacts(t, other, ids("1", "2")...), 0)
		}
	})
	wantRepeats(t, commitFacts(t, s, ids("2", "3")...), 1)
	if n := s.Stats().Turned; n != 1 {
		t.Errorf("it was turned back %d times", n)
	}
	wantRequests(t, s, 3)
}

func TestAFlushThatIsAlwaysTheSlowerOneHoldsTheOthersOff(t *testing.T) {
	databaseURL := database(t)
	s, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	onStatement(s, "begin", func(n int) {
		if n <= 2*factTries {
			commitFacts(t, other, ids("same", fmt.Sprint(n))...)
		}
	})
	wantRepeats(t, commitFacts(t, s, ids("same", "own")...), 1)
	if n := s.Stats().Turned; n != factTries {
		t.Errorf("it was turned back %d times", n)
	}
	wantRequests(t, s, 6)
}

// What a flush reads first is when the ids that it reads next were as they are.
func TestWhatCommitsBetweenTheTurnsAndTheIDsIsSeen(t *testing.T) {
	databaseURL := database(t)
	s, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	conn, err := other.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(text string, args ...any) {
		t.Helper()
		if _, err := tx.Exec(t.Context(), text, args...); err != nil {
			t.Fatal(err)
		}
	}
	send("LOCK TABLE spendflush.id_buckets IN ACCESS EXCLUSIVE MODE")
	f := alone(t, newFacts(0).seal(t, ids("1", "2")...), spend.Mark{})
	done := make(chan error, 1)
	go func() { done <- s.Apply(t.Context(), f) }()
	for query[int](t, other, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'spendflush.id_buckets'::regclass") == 0 {
		if t.Context().Err() != nil {
			t.Fatal("the flush doesn't look for the turns")
		}
	}
	high, low := halves(spend.NewFactID(spend.UpdateFact, "1"))
	send("INSERT INTO spendflush.ids_0 (high, low, said) VALUES ($1, $2, $3)", high, low, int64(1)<<minuteBits)
	send("UPDATE spendflush.id_buckets SET turn = turn + 1")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantRepeats(t, repeatsIn(*f.Outcome), 1)
}

// While one flush decides inside its transaction, another one of the same ids decides before its
// own.
func TestADecisionInsideATransactionHoldsOffOneBefore(t *testing.T) {
	databaseURL := database(t)
	s, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	f := alone(t, newFacts(0).seal(t, ids("1", "2")...), spend.Mark{})
	onStatement(s, "begin", func(n int) {
		if n <= factTries {
			commitFacts(t, other, ids(fmt.Sprint("other ", n))...)
		}
	})
	done := make(chan int64, 1)
	held := false
	original := s.statement
	s.statement = func(name string) string {
		if name == "fact_add_0" && s.Stats().Turned == factTries && !held {
			held = true // it has decided, inside
			go func() { done <- commitFacts(t, other, ids("2", "3")...) }()
		}
		return original(name)
	}
	apply(t, s, f)
	wantRepeats(t, repeatsIn(*f.Outcome)+<-done, 1)
	wantRequests(t, s, 3+3)
}

func TestRepeatsAloneWriteNothingButMarks(t *testing.T) {
	s := open(t, database(t), Options{})
	facts := ids("1", "2", "3")
	commitFacts(t, s, facts...)
	state := func() string {
		return query[string](t, s, `SELECT concat((SELECT array_agg((t.*, t.xmin::text)::text) FROM spendflush.total t), (SELECT array_agg((t.*, t.xmin::text)::text) FROM spendflush.rollup t),
			(SELECT array_agg((t.*, t.xmin::text)::text) FROM spendflush.day_fingerprint t), (SELECT array_agg((t.*, t.xmin::text)::text) FROM spendflush.id_buckets t),
			(SELECT array_agg((t.*, t.xmin::text)::text) FROM spendflush.ids_0 t), (SELECT count(*) FROM spendflush.series))`)
	}
	before := state()
	wantRepeats(t, commitFacts(t, s, facts...), 3)
	if after := state(); after != before {
		t.Errorf("%s\nbefore\n%s", after, before)
	}
	wantRequests(t, s, 3)
}

// A pooler may lead to another server for the transaction than for the look: a standby that was
// promoted, and lacks what was committed last.
func TestWhatWasARepeatOnAnotherServerIsDecidedAnew(t *testing.T) {
	s := open(t, database(t), Options{MaxConns: 4})
	commitFacts(t, s, ids("0")...)
	before := query[int64](t, s, "SELECT max(turn) FROM spendflush.id_buckets")
	kept := keepBooks(t, s)
	commitFacts(t, s, ids("1")...)
	onStatement(s, "begin", func(n int) {
		if n == 1 {
			kept()
			execute(t, s.pool, "DELETE FROM spendflush.ids_0 WHERE high = $1", highOf("1"))
			execute(t, s.pool, "UPDATE spendflush.id_buckets SET turn = least(turn, $1)", before)
		}
	})
	wantRepeats(t, commitFacts(t, s, ids("1")...), 0)
	wantRequests(t, s, 2)
}

func highOf(id string) int64 {
	high, _ := halves(spend.NewFactID(spend.UpdateFact, id))
	return high
}

// Two ids may have the same first half, by which they are looked up.
func TestAnIDIsKnownByAllOfIt(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, "INSERT INTO spendflush.ids_0 (high, low, said) VALUES ($1, 1, 5)", highOf("1"))
	if facts, err := s.Fact(t.Context(), spend.NewFactID(spend.UpdateFact, "1")); err != nil || len(facts) != 0 {
		t.Errorf("%+v, %v", facts, err)
	}
	wantRepeats(t, commitFacts(t, s, ids("1")...), 0)
	wantRequests(t, s, 1)
}

func parts(t testing.TB, s *Store) (states []string) {
	t.Helper()
	list, err := s.FactParts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		states = append(states, p.State)
	}
	return states
}

// later lets time go by that was observed, tick by tick, and tends the ids once.
func later(t testing.TB, s *Store, by time.Duration) {
	t.Helper()
	execute(t, s.pool, "UPDATE spendflush.id_clock SET observed = observed + $1::interval", by)
	if err := s.TendFacts(t.Context(), testWindow); err != nil {
		t.Fatal(err)
	}
}

const (
	testWindow = 36 * 24 * time.Hour
	quarter    = testWindow / 4
)

func TestAnIDIsKnownForTheWindowAndForgottenSoonAfter(t *testing.T) {
	s := open(t, database(t), Options{})
	for i := range 13 { // twice around
		id := fmt.Sprint("part ", i)
		commitFacts(t, s, ids(id)...)
		for n := range 4 {
			later(t, s, quarter)
			wantRepeats(t, commitFacts(t, s, ids(id)...), 1)
			if n == 0 && i == 0 {
				if got := parts(t, s); !slices.Equal(got, []string{"full", "current", "empty", "empty", "empty", "empty"}) {
					t.Errorf("%q", got)
				}
			}
		}
		later(t, s, quarter)
		wantRepeats(t, commitFacts(t, s, ids(id)...), 0)
	}
	count := func(state string) (n int) {
		for _, got := range parts(t, s) {
			if got == state {
				n++
			}
		}
		return n
	}
	if count("current") != 1 || count("full") > 4 || count("retired") != 0 || count("empty") == 0 {
		t.Errorf("%q", parts(t, s))
	}
	wantAudit(t, s)
}

func TestAClockThatJumpsMakesNoIDOlder(t *testing.T) {
	s := open(t, database(t), Options{})
	commitFacts(t, s, ids("1")...)
	observed := func() time.Duration { return query[time.Duration](t, s, "SELECT observed FROM spendflush.id_clock") }
	for _, jump := range []string{"10 years", "-10 years", "1 year"} {
		before := observed()
		execute(t, s.pool, fmt.Sprintf("UPDATE spendflush.id_clock SET ticked_at = ticked_at - interval '%s'", jump))
		later(t, s, 0)
		if by := observed() - before; by < 0 || by > 2*time.Minute {
			t.Errorf("%s: the observed time moves by %s", jump, by)
		}
	}
	execute(t, s.pool, "UPDATE spendflush.id_clock SET ticked_at = ticked_at - interval '1 minute'")
	before := observed()
	later(t, s, 0)
	if by := observed() - before; by < time.Minute || by > 90*time.Second {
		t.Errorf("a minute is %s", by)
	}
	wantRepeats(t, commitFacts(t, s, ids("1")...), 1)
}

func TestAPartThatIsFullTakesNoIDOfAFlushThatHasReadBefore(t *testing.T) {
	databaseURL := database(t)
	s, other := open(t, databaseURL, Options{}), open(t, databaseURL, Options{})
	onStatement(s, "begin", func(n int) {
		if n == 1 {
			later(t, other, quarter)
		}
	})
	commitFacts(t, s, ids("1")...)
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.ids_1"); n != 1 {
		t.Errorf("%d ids are in the part that is current", n)
	}
}

// While an old transaction reads, a part can't be made empty: nobody waits for that.
func TestAReaderOfAnOldPartHoldsNobodyUp(t *testing.T) {
	s := open(t, database(t), Options{})
	commitFacts(t, s, ids("1")...)
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	reader, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), "SELECT FROM spendflush.ids_0"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		later(t, s, quarter)
	}
	later(t, s, 0)
	if got := parts(t, s)[0]; got != "retired" {
		t.Errorf("the part is %s", got)
	}
	wantRepeats(t, commitFacts(t, s, ids("1")...), 0) // it doesn't count any more, whoever reads it
	if n := query[int](t, s, "SELECT count(*) FROM ("+ofRunbook(t, "SELECT a.pid, a.usename")+") AS told"); n != 1 {
		t.Errorf("the runbook's statement finds %d readers", n)
	}
	if n := query[int](t, s, "SELECT count(*) FROM ("+ofRunbook(t, "SELECT pid, state, xact_start")+") AS told"); n != 0 {
		t.Errorf("the runbook's statement finds %d who hold tending up, which waits for nobody", n)
	}
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	later(t, s, 0)
	if got := parts(t, s)[0]; got != "empty" {
		t.Errorf("the part is %s", got)
	}
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.ids_0"); n != 0 {
		t.Errorf("%d ids are left", n)
	}
}

// What operators are told by: ids that nobody tends grow no older, and a part that can't give way does.
func TestThePartsTellWhetherOldIDsAreForgotten(t *testing.T) {
	s := open(t, database(t), Options{})
	current := func() FactPart {
		t.Helper()
		list, err := s.FactParts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list[slices.IndexFunc(list, func(p FactPart) bool { return p.State == "current" })]
	}
	later(t, s, 0)
	if p := current(); p.Untended < 0 || p.Untended > time.Minute {
		t.Errorf("just tended, and told as tended %s ago", p.Untended)
	}
	execute(t, s.pool, "UPDATE spendflush.id_clock SET ticked_at = ticked_at - interval '3 hours'")
	if p := current(); p.Untended < 3*time.Hour || p.Age > 10*time.Minute {
		t.Errorf("nobody tends: told as tended %s ago, its ids %s old", p.Untended, p.Age)
	}
	execute(t, s.pool, "UPDATE spendflush.id_parts SET state = 'retired', opened = '0', closed = '0' WHERE part = 1")
	execute(t, s.pool, "UPDATE spendflush.id_clock SET observed = $1::interval", 2*quarter)
	if p := current(); p.Part != 0 || p.Age < 2*quarter {
		t.Errorf("part %d is current, and told to be so for %s", p.Part, p.Age)
	}
}

// ofRunbook returns the statement of the runbook that begins so.
func ofRunbook(t *testing.T, begin string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, statement, found := strings.Cut(string(text), "    "+begin)
	statement, _, ended := strings.Cut(statement, ";\n")
	if !found || !ended {
		t.Fatalf("the runbook has no statement that begins with %q", begin)
	}
	return begin + statement
}

func TestOnlyARetiredPartIsMadeEmpty(t *testing.T) {
	s := open(t, database(t), Options{})
	commitFacts(t, s, ids("1")...)
	for part := range factParts {
		if query[bool](t, s, "SELECT spendflush.empty_ids($1)", part) {
			t.Errorf("part %d was made empty", part)
		}
	}
	wantRepeats(t, commitFacts(t, s, ids("1")...), 1)
}

func TestARoleWithTheRightsOfTheRunbookKeepsIDsAndForgetsThem(t *testing.T) {
	databaseURL := database(t)
	const role = "sql_facts"
	s := open(t, testserver.Role(t, databaseURL, role), Options{})
	testserver.Grant(t, databaseURL, "../../docs/runbook.md", role)
	commitFacts(t, s, ids("1")...)
	for range 5 {
		later(t, s, quarter)
	}
	if got := parts(t, s)[0]; got != "empty" {
		t.Errorf("the part is %s", got)
	}
}

func TestOutcomesAreKeptForAnHour(t *testing.T) {
	s := open(t, database(t), Options{})
	commitFacts(t, s, ids("1")...)
	b := newFacts(0).seal(t, ids("1")...)
	apply(t, s, alone(t, b, spend.Mark{}))
	outcomes := func() int {
		later(t, s, 0)
		list, err := s.Outcomes(t.Context(), 0, b.Producer, []uint64{1})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for _, c := range []struct {
		age  string
		want int
	}{{"0", 1}, {"59 minutes", 1}, {"2 minutes", 0}} {
		execute(t, s.pool, "UPDATE spendflush.taken_out SET committed_at = committed_at - $1::interval", c.age)
		if n := outcomes(); n != c.want {
			t.Errorf("%s later: %d outcomes, want %d", c.age, n, c.want)
		}
	}
}

// conflict commits two updates of one id and another content, and returns the entry.
func conflict(t *testing.T, s *Store) Quarantined {
	t.Helper()
	commitFacts(t, s, ids("1")...)
	f := alone(t, newFacts(0).seal(t, named{"1", "k", 2}, named{"new", "k", 1}, named{"1", "other", 1<<48 - 1}), spend.Mark{})
	apply(t, s, f)
	if got := fmt.Sprint((*f.Outcome)[0].Ranges); got != "[{0 0 true 1} {2 2 true 1}]" {
		t.Errorf("the outcome is %s", got)
	}
	open, err := s.Quarantined(t.Context(), false, 0, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%+v, %v", open, err)
	}
	return open[0]
}

func TestAConflictIsSetAsideAndCanBeBookedOrDropped(t *testing.T) {
	for _, what := range []string{"applied", "dropped"} {
		s := open(t, database(t), Options{})
		entry := conflict(t, s)
		if entry.Kind != "conflict" || entry.Updates != 2 || entry.Counters.Spend != spend.Dollars(2) || entry.Counters.SuccessfulRequests != 2 ||
			entry.Sequence != 1 || entry.Size == 0 || !strings.Contains(entry.Reason, "ids of these 2 updates") {
			t.Errorf("%+v", entry)
		}
		if bytes, err := s.QuarantinedBytes(t.Context(), entry.ID); err != nil || len(bytes) != entry.Size {
			t.Errorf("%d bytes, %v", len(bytes), err)
		}
		wantRequests(t, s, 2)
		report, err := s.Audit(t.Context())
		if q := report.Quarantine.Conflicts; err != nil || q != (AuditBatches{Entries: 1, Spend: "2", Updates: "2"}) {
			t.Errorf("%+v, %v", q, err)
		}
		want := 2
		if what == "applied" {
			want, err = 4, s.ApplyQuarantined(t.Context(), entry.ID, "a test")
		} else {
			err = s.DropQuarantined(t.Context(), entry.ID, "a test")
		}
		if err != nil {
			t.Fatal(err)
		}
		wantRequests(t, s, want)
		wantRepeats(t, commitFacts(t, s, ids("1", "new")...), 2) // as what was booked first
	}
}

func TestABatchInQuarantineWhoseIDsWereBookedMeanwhileCountsWhatIsNew(t *testing.T) {
	for _, beside := range []bool{false, true} {
		s := open(t, database(t), Options{})
		b := newFacts(0).seal(t, append(ids("1", "2"), named{"3", "k", 2})...)
		if err := s.Quarantine(t.Context(), []spend.BadBatch{{Reason: "a test", Bytes: b.Bytes(), Unclaimed: beside}}); err != nil {
			t.Fatal(err)
		}
		if beside { // another batch has its place
			other := newFacts(0)
			other.Producer = b.Producer
			apply(t, s, alone(t, other.seal(t, ids("another")...), spend.Mark{}))
		} else {
			commitFacts(t, s, ids("another")...)
		}
		commitFacts(t, s, ids("2", "3")...)
		entry := query[int64](t, s, "SELECT min(id) FROM spendflush.quarantine")
		if err := s.ApplyQuarantined(t.Context(), entry, "a test"); err != nil {
			t.Fatal(err)
		}
		wantRequests(t, s, 4) // another, 2, 3 and 1
		if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine WHERE kind = 'conflict' AND spend = 1"); n != 1 {
			t.Errorf("beside %t: %d conflicts", beside, n)
		}
		wantRepeats(t, commitFacts(t, s, ids("1", "2")...), 2)
	}
}

// A claim covers later what was booked by hand beside all claims.
func TestABatchOfFactsThatWasAppliedByHandIsCoveredByItsClaim(t *testing.T) {
	s := open(t, database(t), Options{})
	commitFacts(t, s, ids("1")...)
	p := bornAgo(40 * 24 * time.Hour)
	old := &factChain{spend.Header{Producer: p, Books: testBooks}}
	b := old.seal(t, ids("1", "2")...)
	execute(t, s.pool, "INSERT INTO spendflush.pruned_marks (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount) VALUES (0, 1, now(), 0, 0, 0, 0)")
	id := besideClaims(t, s, b.Bytes())[0]
	if err := s.ApplyQuarantined(t.Context(), id, "a test"); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s, 2)
	execute(t, s.pool, "UPDATE spendflush.pruned_marks SET horizon = '-infinity'")
	f := alone(t, b, spend.Mark{})
	f.Totals, f.Rollups, f.Control, f.Facts = nil, nil, spend.Control{}, nil
	f.ByHand = []spend.ByHandBatch{{Producer: p, Sequence: 1, Digest: b.Digest()}}
	apply(t, s, f)
	wantRequests(t, s, 2)
}

func TestWhatWasTakenOutIsStillProvenWhenMarksArePruned(t *testing.T) {
	s := open(t, database(t), Options{})
	commitFacts(t, s, ids("1")...)
	old := &factChain{spend.Header{Producer: bornAgo(40 * 24 * time.Hour), Books: testBooks}}
	apply(t, s, alone(t, old.seal(t, append(ids("1", "2"), named{"1", "k", 7})...), spend.Mark{}))
	age(t, s, 40*24*time.Hour)
	touch(t, s, newProducer(), 1)
	if n := query[int](t, s, "SELECT duplicate_updates + 10 * conflict_updates FROM spendflush.pruned_marks"); n != 11 {
		t.Errorf("%d was taken out of what was pruned", n)
	}
	wantRequests(t, s, 2)
	if err := s.ApplyQuarantined(t.Context(), query[int64](t, s, "SELECT id FROM spendflush.quarantine"), "a test"); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s, 3)
}

func TestAuditFindsWhatWasChangedOfWhatWasTakenOut(t *testing.T) {
	s := open(t, database(t), Options{})
	conflict(t, s)
	commitFacts(t, s, ids("1")...)
	wantAudit(t, s)
	restore := keepBooks(t, s)
	for change, want := range map[string][]string{
		"UPDATE spendflush.producers SET duplicate_updates = duplicate_updates + 1":                                                                                                          {checkSealed, checkClaims},
		"UPDATE spendflush.producers SET duplicate_amount = duplicate_amount - 1e-12":                                                                                                        {checkSealed, checkClaims},
		"UPDATE spendflush.producers SET conflict_amount = conflict_amount + 1":                                                                                                              {checkSealed, checkClaims},
		"UPDATE spendflush.producers SET duplicate_updates = conflict_updates, duplicate_amount = conflict_amount, conflict_updates = duplicate_updates, conflict_amount = duplicate_amount": {checkClaims},
		"DELETE FROM spendflush.control WHERE book = 'duplicate'":                                                                                                                            {checkClaims},
		"UPDATE spendflush.control SET prompt_tokens = prompt_tokens + 1 WHERE book = 'conflict'":                                                                                            {checkConflicts},
		"DELETE FROM spendflush.quarantine WHERE kind = 'conflict'":                                                                                                                          {checkConflicts},
		"UPDATE spendflush.quarantine SET failed_requests = failed_requests + 1 WHERE kind = 'conflict'":                                                                                     {checkConflicts},
		"UPDATE spendflush.quarantine SET state = 'applied' WHERE kind = 'conflict'":                                                                                                         {checkConflicts},
		"UPDATE spendflush.control SET shard = shard + 1 WHERE book = 'conflict'":                                                                                                            {checkClaims},
	} {
		execute(t, s.pool, change)
		report, err := s.Audit(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var failed []string
		for _, c := range report.Checks {
			if !c.OK {
				failed = append(failed, c.Name)
			}
		}
		if !slices.Equal(failed, want) {
			t.Errorf("%s: %q, want %q", change, failed, want)
		}
		restore()
	}
	wantAudit(t, s)
}

// A row that Postgres refuses is set aside, and its id counts.
func TestARefusedRowOfAFactIsSetAsideAndItsIDIsKept(t *testing.T) {
	s := open(t, database(t), Options{})
	execute(t, s.pool, `CREATE FUNCTION public.veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.entity_id = 'vetoed' THEN RAISE 'not this key'; END IF; RETURN NEW; END $$`)
	execute(t, s.pool, "CREATE TRIGGER veto BEFORE INSERT ON spendflush.entity FOR EACH ROW EXECUTE FUNCTION public.veto()")
	commitFacts(t, s, named{"1", "vetoed", 1}, named{"2", "k", 1})
	if n := query[int](t, s, "SELECT count(*) FROM spendflush.quarantine WHERE kind = 'row'"); n != 1 {
		t.Errorf("%d rows are set aside", n)
	}
	wantRepeats(t, commitFacts(t, s, named{"1", "vetoed", 1}), 1)
	wantAudit(t, s)
}

// Flushes of several shards repeat each other's ids at once. Each id counts once, whoever wins.
func TestIDsThatComeFromEverywhereAtOnceCountOnce(t *testing.T) {
	databaseURL := database(t)
	const writers, rounds, population = 4, 8, 60
	stores := make([]*Store, writers)
	for i := range stores {
		stores[i] = open(t, databaseURL, Options{})
	}
	counted := make([]int64, writers)
	var all sync.WaitGroup
	for i, s := range stores {
		all.Go(func() {
			chain, mark := newFacts(i%2), spend.Mark{}
			for round := range rounds {
				var facts []named
				for n := range 20 {
					id := (round*7 + n*3 + i) % population
					facts = append(facts, named{fmt.Sprint(id), fmt.Sprint("key", id%5), 1})
				}
				b := chain.seal(t, facts...)
				f := alone(t, b, mark)
				if err := s.Apply(t.Context(), f); err != nil {
					t.Error(err)
					return
				}
				mark = spend.Mark{Sequence: b.Sequence, Digest: b.Digest(), Updates: b.PriorUpdates + b.Updates, Amount: b.PriorAmount.Add(b.Amount)}
				counted[i] += b.Updates - repeatsIn(*f.Outcome)
			}
		})
	}
	all.Wait()
	sum := int64(0)
	for _, n := range counted {
		sum += n
	}
	s := stores[0]
	if n := query[int64](t, s, "SELECT count(DISTINCT (high, low)) FROM spendflush.ids_0"); n != sum || n != query[int64](t, s, "SELECT count(*) FROM spendflush.ids_0") {
		t.Errorf("%d ids are kept; %d updates count", n, sum)
	}
	wantRequests(t, s, int(sum))
}

func TestALookAtIDsReadsByIndexHoweverManyThereAre(t *testing.T) {
	s := open(t, database(t), Options{})
	fillIDs(t, s, 20_000)
	look := &factLook{flush: &spend.Flush{}, ids: []spend.FactID{spend.NewFactID(spend.UpdateFact, "1")}}
	plan := strings.Join(explain(t, s, look), "\n")
	if strings.Contains(plan, "Seq Scan on ids_0") || !strings.Contains(plan, "Index Scan using ids_0_high") {
		t.Error(plan)
	}
	for _, empty := range []string{"ids_1", "ids_5"} {
		if !strings.Contains(plan, empty) {
			t.Error(plan)
		}
	}
	if n := strings.Count(plan, "never executed"); n < factParts-1 {
		t.Errorf("%d nodes are never executed: %s", n, plan)
	}
}

// fillIDs puts random ids into part 0.
func fillIDs(t testing.TB, s *Store, n int) {
	t.Helper()
	execute(t, s.pool, `INSERT INTO spendflush.ids_0 (high, low, said)
		SELECT ('x' || substr(md5(i::text), 1, 16))::bit(64)::bigint, ('x' || substr(md5(i::text), 17, 16))::bit(64)::bigint, i << 16 FROM generate_series(1, $1::integer) AS i`, n)
}

// explain returns how Postgres looks for ids.
func explain(t testing.TB, s *Store, look *factLook) (lines []string) {
	t.Helper()
	err := s.read(t.Context(), func(tx querier) error {
		if _, err := tx.Exec(t.Context(), s.statement("fact_by_index")); err != nil {
			return err
		}
		high, low := halves(look.ids[0])
		rows, err := tx.Query(t.Context(), "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "+s.statement("fact_find"), []int64{high}, []int64{low})
		if err != nil {
			return err
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				return err
			}
			lines = append(lines, line)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
