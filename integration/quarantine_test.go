package integration

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// spent is what a batch made by hand books on an API key.
type spent struct {
	key    string
	amount string
}

// handMade returns a batch of a producer that isn't one of the instances. Each sum is one request
// in an hour long past.
func (s *stack) handMade(producer spend.ProducerID, sequence uint64, sums ...spent) *spend.Batch {
	t := s.t
	t.Helper()
	if made, ok := handMadeBatches.Load(handMadeName{producer, sequence}); ok {
		return made.(*spend.Batch)
	}
	var totals []spend.TotalRow
	var rollups []spend.RollupRow
	for _, sum := range sums {
		amount, err := spend.ParseAmount(sum.amount)
		if err != nil {
			t.Fatal(err)
		}
		c := spend.Counters{Spend: amount, SuccessfulRequests: 1}
		e := spend.Entity{Type: spend.APIKey, ID: sum.key}
		totals = append(totals, spend.TotalRow{Key: e.Key(), Entity: e, Counters: c})
		rollups = append(rollups, spend.NewRollupRow(&spend.Series{APIKey: sum.key}, 490_000, c))
	}
	slices.SortFunc(totals, func(a, b spend.TotalRow) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(rollups, func(a, b spend.RollupRow) int { return a.Key.Compare(b.Key) })
	h := spend.Header{Books: s.books(), Producer: producer, Sequence: sequence, SealedAt: time.Now()}
	if sequence > 1 { // those before it that weren't made yet are like it
		prior := s.handMade(producer, sequence-1, sums...)
		h.PriorUpdates, h.PriorAmount = prior.PriorUpdates+prior.Updates, prior.PriorAmount.Add(prior.Amount)
		h.PriorDigest = prior.Digest()
	}
	b := spend.NewBatch(h, totals, rollups)
	handMadeBatches.Store(handMadeName{producer, sequence}, b)
	return b
}

// handMadeBatches are those made so far: each goes on from the one before it.
var handMadeBatches sync.Map

type handMadeName struct {
	producer spend.ProducerID
	sequence uint64
}

// enqueue puts bytes into the queue past the program, as if they were a batch of the producer.
func (s *stack) enqueue(producer spend.ProducerID, sequence uint64, batch []byte) {
	s.t.Helper()
	err := s.redisClient().XAdd(s.t.Context(), &redis.XAddArgs{
		Stream: s.queueKey(0), Values: []any{"p", producer.String(), "s", sequence, "b", batch},
	}).Err()
	if err != nil {
		s.t.Fatal(err)
	}
}

// post sends one update and waits until it is in Postgres.
func (in *instance) post(update string) {
	in.t.Helper()
	status, answer, err := in.stack.do(http.MethodPost, in.url+"/v1/updates?ack=committed", "application/json", strings.NewReader(update))
	if err != nil || status != http.StatusOK {
		in.t.Fatalf("%s: %d %s %v", in.name, status, answer, err)
	}
}

// aside is an entry as `quarantine list --json` tells of it.
type aside struct {
	ID       int64
	Kind     string
	State    string
	Reason   string
	Producer string
	Sequence uint64
	Size     int
	Updates  *int64
	Spend    *spend.Amount
	Book     string
	Entity   struct {
		ID string `json:"entity_id"`
	}
	Requests int64 `json:"api_requests"`
}

func (s *stack) quarantined(args ...string) (list []aside) {
	s.t.Helper()
	text := mustRun(s.t, 0, s.variables(), append([]string{"quarantine", "list", "--json"}, args...)...)
	for line := range strings.Lines(text) {
		var a aside
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			s.t.Fatalf("%v: %s", err, line)
		}
		list = append(list, a)
	}
	return list
}

// wants fails unless the program ends with this status and says all of it, on whichever stream.
func (s *stack) wants(status int, args []string, says ...string) {
	s.t.Helper()
	got, stdout, stderr := run(s.t, s.variables(), args...)
	if got != status {
		s.t.Errorf("%q: exit status %d instead of %d", args, got, status)
	}
	for _, want := range says {
		if !strings.Contains(squeeze(stdout+stderr), want) {
			s.t.Errorf("%q doesn't say %q:\n%s%s", args, want, stdout, stderr)
		}
	}
}

// quarantine makes the arguments of a command on entries.
func quarantine(command string, ids ...int64) []string {
	args := []string{"quarantine", command}
	for _, id := range ids {
		args = append(args, fmt.Sprint(id))
	}
	return args
}

// total returns what is booked on an API key.
func (s *stack) total(key string) sums { return s.readEntities()[entity{"api_key", key, ""}] }

func (s *stack) awaitTotal(key, spend string) {
	s.t.Helper()
	eventually(s.t, "the total of "+key, func() string {
		if got := s.total(key).Spend.String(); got != spend {
			return fmt.Sprintf("%s instead of %s", got, spend)
		}
		return ""
	})
}

func (s *stack) awaitEmptyQueue() {
	s.t.Helper()
	client := s.redisClient()
	eventually(s.t, "the queue is empty", func() string {
		if n := client.XLen(s.t.Context(), s.queueKey(0)).Val(); n != 0 {
			return fmt.Sprintf("%d entries", n)
		}
		return ""
	})
}

func TestACorruptEntryOfTheQueueIsQuarantinedListedShownAndDropped(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only")
	producer := spend.NewProducerID(time.Now())
	whole := s.handMade(producer, 1, spent{"a", "1.5"}, spent{"b", "0.25"}).Bytes()
	// Rows that aren't what the control sums say, in a frame that is in order.
	changed := slices.Clone(whole)
	changed[len(changed)-1]++
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(changed[:4], castagnoli), castagnoli, changed[8:])
	for i := range 4 {
		changed[4+i] = byte(sum >> (24 - 8*i))
	}
	bad := [][]byte{[]byte("not a batch\x1b[2J"), whole[:100], changed}
	for _, b := range bad {
		s.enqueue(producer, 1, b)
	}
	in.post(`{"spend": 1, "api_key": "good"}`)
	eventually(t, "all that is bad is in quarantine", func() string {
		if n := s.number("SELECT count(*) FROM spendflush.quarantine"); n != int64(len(bad)) {
			return fmt.Sprintf("%d entries", n)
		}
		return ""
	})
	if got := s.total("good").Requests; got != 1 {
		t.Errorf("%d requests are booked beside what is bad", got)
	}
	s.awaitEmptyQueue()

	// The one that could be read was set aside by its claim, before the others.
	list := s.quarantined()
	slices.SortFunc(list, func(a, b aside) int { return cmp.Compare(a.Size, b.Size) })
	unreadable, torn, wrong := list[0], list[1], list[2]
	if unreadable.Size != len(bad[0]) || unreadable.Spend != nil || torn.Updates != nil || torn.Kind != "batch" ||
		wrong.Producer != producer.String() || wrong.Sequence != 1 || wrong.Spend.String() != "1.75" || *wrong.Updates != 2 {
		t.Errorf("%+v", list)
	}
	s.wants(0, quarantine("list"), "ID KIND STATE WHEN SHARD WHAT DOLLARS REQUESTS REASON",
		"15 bytes ? ? corrupt batch: 15 bytes without a batch header", "100 bytes ? ?",
		fmt.Sprintf("producer %s batch 1 1.75 2 corrupt batch", producer),
		"3 entries; batches: 1 of 1.75 dollars in 2 requests; batches of which it can't be told: 2")
	s.wants(0, []string{"audit"}, "batches: 3, of 1.75 dollars in 2 updates; of 2 it can't be told", "quarantined: 3")
	s.checkShown(bad, list)
	s.checkDropped(unreadable.ID, torn.ID, wrong.ID)
	s.audit()
}

// checkShown looks at entries by show; of the last the header can be read.
func (s *stack) checkShown(bad [][]byte, list []aside) {
	s.t.Helper()
	first, last := list[0].ID, list[len(list)-1].ID
	s.wants(0, quarantine("show", first), "unreadable corrupt batch: 15 bytes", "6e 6f 74 20 61 20 62 61", "quarantine drop")
	s.wants(0, quarantine("show", last), "header version 1, shard 0, sealed at", "counts 1.75 dollars in 2 updates",
		"unreadable corrupt batch", fmt.Sprintf("its first %d bytes", len(bad[len(bad)-1])))
	var shown struct {
		Header struct {
			Sequence uint64
			Spend    string
		}
		Unreadable string
		FirstBytes string `json:"first_bytes"`
	}
	text := mustRun(s.t, 0, s.variables(), append(quarantine("show", last), "--json")...)
	if err := json.Unmarshal([]byte(text), &shown); err != nil || shown.Header.Sequence != 1 || shown.Header.Spend != "1.75" ||
		shown.Unreadable == "" || !strings.HasPrefix(shown.FirstBytes, "534601") {
		s.t.Errorf("show --json: %v\n%s", err, text)
	}
	for i, a := range list {
		if got := mustRun(s.t, 0, s.variables(), append(quarantine("show", a.ID), "--raw")...); !bytes.Equal([]byte(got), bad[i]) {
			s.t.Errorf("show --raw of entry %d: %q", a.ID, got)
		}
	}
}

// checkDropped drops three entries that can't be applied.
func (s *stack) checkDropped(unreadable, torn, wrong int64) {
	s.t.Helper()
	s.wants(1, append(quarantine("apply"), "--all"), fmt.Sprintf("%d: NOT applied: refused: corrupt batch", torn),
		"applied: 0; applied before: 0; not applied: 3", fmt.Sprintf("spendflush quarantine drop %d", torn))
	s.wants(2, quarantine("drop", torn), "--yes")
	if n := len(s.quarantined()); n != 3 {
		s.t.Errorf("%d entries are open after a question that nobody answered", n)
	}
	s.wants(1, append(quarantine("drop", torn, wrong, 4711), "--yes"), fmt.Sprintf("%d: dropped", torn),
		fmt.Sprintf("%d: dropped", wrong), "4711: NOT dropped: quarantine has no entry 4711")
	s.wants(0, append(quarantine("drop", torn, unreadable), "--yes"), fmt.Sprintf("%d: was dropped before", torn),
		fmt.Sprintf("%d: dropped", unreadable))
	s.wants(1, quarantine("apply", torn), "NOT applied: it was dropped at")
	s.wants(1, append(quarantine("apply", torn), "--json"), fmt.Sprintf(`{"id":%d,"result":"not_applied","detail":"it was dropped at `, torn))
	s.wants(0, append(quarantine("drop", torn), "--yes", "--json"), fmt.Sprintf(`{"id":%d,"result":"dropped_before",`, torn), `"state":"dropped"`)
	s.wants(2, append(quarantine("drop", torn), "--json"), "--json needs --yes")
	s.wants(0, quarantine("list"), "nothing is open in quarantine")
	for _, a := range s.quarantined("--all") {
		if a.State != "dropped" {
			s.t.Errorf("%+v", a)
		}
	}
}

// brimful makes the total of the API key "full" so large that Postgres refuses what is added, by
// nothing but a batch: the books are in order. mend takes it away again.
func (s *stack) brimful() (mend func()) {
	s.t.Helper()
	const most = "99999999999999999999999999"
	producer := spend.NewProducerID(time.Now())
	s.enqueue(producer, 1, s.handMade(producer, 1, spent{"full", most}, spent{"counterweight", "-" + most}).Bytes())
	s.awaitTotal("full", most)
	return func() {
		s.t.Helper()
		s.enqueue(producer, 2, s.handMade(producer, 2, spent{"full", "-" + most}, spent{"counterweight", most}).Bytes())
		s.awaitTotal("full", "0")
	}
}

const onTop = `{"spend": "1.25", "api_key": "full", "team_id": "crew", "model": "gpt-5", "prompt_tokens": 7}`

func TestARowThatPostgresRefusesIsQuarantinedAndAppliedOnceItsCauseIsMended(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only")
	mend := s.brimful()
	in.post(onTop)
	if got := s.readEntities()[entity{"team", "crew", ""}]; got.Spend.String() != "1.25" || got.Prompt != 7 {
		t.Errorf("the rest isn't committed: %+v", got)
	}
	list := s.quarantined()
	if len(list) != 1 || list[0].Kind != "row" || list[0].Book != "api_key" || list[0].Entity.ID != "full" ||
		list[0].Spend.String() != "1.25" || list[0].Requests != 1 {
		t.Fatalf("%+v", list)
	}
	id := list[0].ID
	s.wants(0, quarantine("list"), `api_key "full" 1.25 1 numeric field overflow (SQLSTATE 22003)`, "1 entry; rows of api_key: 1 of 1.25 dollars in 1 requests")
	s.wants(0, quarantine("show", id), "successful requests 1", "failed requests 0", "prompt tokens 7", "reason numeric field overflow")
	s.wants(1, append(quarantine("show", id), "--raw"), "only batches have bytes")
	s.wants(0, []string{"audit"}, "rows of api_key: 1, of 1.25 dollars in 1 requests", "the books add up")
	want := `"rows":[{"book":"api_key","entries":1,"spend":"1.25","api_requests":"1"}]`
	if _, report := in.get("/v1/audit"); !strings.Contains(strings.Join(strings.Fields(report), ""), want) {
		t.Errorf("/v1/audit doesn't say %s:\n%s", want, report)
	}

	s.wants(1, quarantine("apply", id), fmt.Sprintf("%d: NOT applied: refused: add_totals: ERROR: numeric field overflow", id), "mend that and apply it again")
	mend()
	s.wants(0, quarantine("apply", id), fmt.Sprintf(`%d: applied: api_key "full"`, id), "applied: 1; applied before: 0; not applied: 0")
	for range 2 {
		if got := s.total("full"); got.Spend.String() != "1.25" || got.Requests != 3 || got.Prompt != 7 {
			t.Errorf("the total is %+v", got)
		}
		s.wants(0, quarantine("apply", id), fmt.Sprintf("%d: was applied before", id), "applied: 0; applied before: 1; not applied: 0")
	}
	s.wants(1, append(quarantine("drop", id), "--yes"), "NOT dropped: it was applied at")
	s.wants(0, append(quarantine("apply"), "--all"), "applied: 0; applied before: 0; not applied: 0")
	if status, report := in.get("/v1/audit"); status != http.StatusOK || !strings.Contains(report, `"rows":[]`) {
		t.Errorf("/v1/audit: %d %s", status, report)
	}
	in.stop(0)
	s.audit()
}

// A program with access to Redis makes up a batch whose frame is whole.
func TestAnImpossibleBatchIsSetAsideAndTheRestFlows(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only")
	for _, amount := range []string{"1000000000.000000000001", "99999999999999999999999999"} {
		producer := spend.NewProducerID(time.Now())
		s.enqueue(producer, 1, s.handMade(producer, 1, spent{"made up", amount}).Bytes())
	}
	in.post(`{"spend": "1.25", "api_key": "real"}`)
	s.awaitEmptyQueue()
	list := s.quarantined()
	if len(list) != 2 || !strings.Contains(list[0].Reason, "impossible header") {
		t.Errorf("%+v", list)
	}
	if got := s.total("real").Spend.String(); got != "1.25" || s.total("made up").Requests != 0 {
		t.Errorf("%s dollars are booked", got)
	}
	in.stop(0)
	s.audit()
}

func TestTwoWhoApplyTheQuarantineAtOnceCountEveryEntryOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only")
	mend := s.brimful()
	const rows = 12
	for range rows {
		in.post(onTop)
	}
	mend()
	if n := len(s.quarantined()); n != rows {
		t.Fatalf("%d rows are set aside, want %d", n, rows)
	}
	var both [2]*process
	for i := range both {
		both[i] = launch(t, "apply --all", s.variables(), "quarantine", "apply", "--all")
	}
	applied := 0
	for _, p := range both {
		if status := p.wait(); status != 0 {
			t.Errorf("exit status %d", status)
		}
		applied += strings.Count(p.stdout.String(), ": applied: ")
	}
	if got := s.total("full"); applied != rows || got.Spend.String() != "15" || got.Requests != rows+2 {
		t.Errorf("%d rows are said to be applied; the total is %+v", applied, got)
	}
	s.wants(0, quarantine("list"), "nothing is open")
	s.audit()
}

// setAside puts a batch into quarantine as a flusher does, and returns the id of its entry.
func (s *stack) setAside(store *pgstore.Store, batch *spend.Batch) int64 {
	s.t.Helper()
	err := store.Quarantine(s.t.Context(), []spend.BadBatch{{Reason: "an older program couldn't read it", Bytes: batch.Bytes()}})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.number("SELECT max(id) FROM spendflush.quarantine")
}

func TestAQuarantinedBatchBesideItsProducersResendCountsOnce(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only", "SPENDFLUSH_FLUSH_INTERVAL=5ms")
	store := s.openStore()
	batch := func(key string) (spend.ProducerID, *spend.Batch) {
		producer := spend.NewProducerID(time.Now())
		return producer, s.handMade(producer, 1, spent{key, "1"}, spent{key + "'", "2"})
	}
	wantOnce := func(key string) {
		t.Helper()
		if got := s.total(key); got.Spend.String() != "1" || got.Requests != 1 {
			t.Errorf("%s: %+v", key, got)
		}
	}

	producer, b := batch("resent first")
	id := s.setAside(store, b)
	s.wants(0, quarantine("show", id), "not in the books", `api_key "resent first'" 2 1 0`, "HOUR ROLLUP OF DOLLARS")
	s.enqueue(producer, 1, b.Bytes())
	s.awaitTotal("resent first", "1")
	s.wants(0, quarantine("show", id), "state open: already in the books")
	s.wants(1, quarantine("apply", id), "NOT applied: already in the books", fmt.Sprintf("spendflush quarantine drop %d", id))
	wantOnce("resent first")
	s.wants(0, append(quarantine("drop", id), "--yes"), "dropped")

	producer, b = batch("applied first")
	id = s.setAside(store, b)
	s.wants(0, quarantine("apply", id), fmt.Sprintf("%d: applied: producer %s batch 1", id, producer))
	s.enqueue(producer, 1, b.Bytes())
	s.awaitEmptyQueue()
	wantOnce("applied first")

	const rounds = 8
	won := 0
	for i := range rounds {
		key := fmt.Sprint("at once ", i)
		producer, b := batch(key)
		if s.applyBesideResend(s.setAside(store, b), producer, b, time.Duration(i)*40*time.Millisecond) {
			won++
		}
		s.awaitTotal(key, "1")
		wantOnce(key)
	}
	t.Logf("%d of %d were applied by hand", won, rounds)
	in.stop(0)
	s.audit()
}

// applyBesideResend applies an entry and, so long after the program was started, puts its batch
// into the queue. It says whether the entry was applied.
func (s *stack) applyBesideResend(id int64, producer spend.ProducerID, b *spend.Batch, pause time.Duration) bool {
	s.t.Helper()
	p := launch(s.t, "apply", s.variables(), quarantine("apply", id)...)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.done:
	}
	s.enqueue(producer, 1, b.Bytes())
	status := p.wait()
	applied := status == 0 && strings.Contains(p.stdout.String(), ": applied: ")
	if !applied && (status != 1 || !strings.Contains(p.stdout.String(), "already in the books")) {
		s.t.Errorf("exit status %d: %s%s", status, p.stdout.String(), p.stderr.String())
	}
	return applied
}

func TestBatchesQuarantinedInTheWrongOrderAreAppliedInTheRightOne(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	store := s.openStore()
	producer := spend.NewProducerID(time.Now())
	var ids []int64
	for _, sequence := range []uint64{4, 3, 1} {
		ids = append(ids, s.setAside(store, s.handMade(producer, sequence, spent{"k", "1"})))
	}
	s.wants(1, quarantine("apply", ids[0]), "batches 1 to 3 of its producer must be in the books before it")
	s.wants(1, append(quarantine("apply"), "--all"), "batch 2 of its producer must be", "applied: 1; applied before: 0; not applied: 2")
	s.setAside(store, s.handMade(producer, 2, spent{"k", "1"}))
	s.wants(0, append(quarantine("apply"), "--all"), "applied: 3; applied before: 0; not applied: 0")
	if got := s.total("k"); got.Requests != 4 {
		t.Errorf("%+v", got)
	}
	s.audit()
}

func TestQuarantineCommandsSayWhatIsWrongWithTheirArguments(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.wants(1, quarantine("list"), "database has no tables of spendflush", "run spendflush migrate up")
	mustRun(t, 0, s.variables(), "migrate", "up")
	s.wants(0, quarantine("list"), "nothing is open in quarantine")
	if got := mustRun(t, 0, s.variables(), "quarantine", "list", "--json"); got != "" {
		t.Errorf("list --json of nothing: %q", got)
	}
	s.wants(1, quarantine("show", 7), "quarantine has no entry 7")
	s.wants(1, quarantine("apply", 7), "7: NOT applied: quarantine has no entry 7", "not applied: 1")
	for args, says := range map[string]string{
		"":                             "say list, show, apply or drop",
		"lsit":                         "unknown command",
		"list 7":                       "unknown command",
		"show":                         "say which entries",
		"show seven":                   `"seven" is not an id of an entry; allowed are whole numbers from 1`,
		"show 0":                       `"0" is not an id`,
		"show 7 8":                     "one entry at a time",
		"show 7 --json --raw":          "not both",
		"apply":                        "say which entries",
		"apply --all 7":                "ids or --all, not both",
		"apply 7 99999999999999999999": `"99999999999999999999" is not an id`,
		"drop --yes":                   "say which entries",
		"drop 7":                       "--yes drops without asking",
		"drop 7 --force":               "unknown flag",
	} {
		s.wants(2, append([]string{"quarantine"}, strings.Fields(args)...), says)
	}
	for _, command := range []string{"list", "show", "apply", "drop"} {
		s.wants(0, []string{"quarantine", command, "--help"}, "Examples:", "Exit status: 0 ")
	}
}
