package spendflush

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// The sizes of a batch header, and of what a mark has of each of the last digests.
const (
	headerSize  = 136
	recentBytes = 4
)

// testNow is when the batches of tests were sealed.
var testNow = time.UnixMilli(1_790_000_000_123)

// testProducer returns the n-th producer, always the same.
func testProducer(n int) (id spend.ProducerID) {
	copy(id[:], fmt.Sprintf("test%012d", n))
	return id
}

// randomSeries draws from few enough ids that combinations recur.
func randomSeries(r *rand.Rand) spend.Series {
	pick := func(name string, n int) string {
		if i := r.IntN(n + 1); i > 0 {
			return fmt.Sprint(name, i)
		}
		return ""
	}
	s := spend.Series{
		APIKey: pick("key", 5), UserID: pick("user", 3), EndUserID: pick("end", 1), TeamID: pick("team", 2),
		OrganizationID: pick("org", 1), AgentID: pick("agent", 1), Model: pick("model", 2), Endpoint: pick("/v1/", 1),
	}
	for range r.IntN(3) {
		s.Tags = append(s.Tags, fmt.Sprint("tag", r.IntN(3)))
	}
	if s.APIKey+s.UserID+s.EndUserID+s.TeamID+s.OrganizationID+s.AgentID == "" && len(s.Tags) == 0 {
		s.APIKey = "key0"
	}
	return s
}

func randomUpdate(r *rand.Rand) spend.Update {
	return spend.Update{
		Cost: spend.Cost{Spend: spend.Picodollars(r.Int64N(2_000_000_000_000) - 100_000_000_000), Status: spend.Status(r.IntN(2)), PromptTokens: r.Int64N(1000), CompletionTokens: r.Int64N(1000), CacheReadInputTokens: r.Int64N(2), CacheCreationInputTokens: r.Int64N(2) * r.Int64N(spend.MaxTokens)}, Series: randomSeries(r),
	}
}

// books is the plainest form of the books: what every entity and every series has in every hour.
type books struct {
	totals  map[spend.Entity]spend.Counters
	rollups map[rollupName]spend.Counters
	updates int64
	amount  spend.Amount
}

func newBooks() *books {
	return &books{totals: map[spend.Entity]spend.Counters{}, rollups: map[rollupName]spend.Counters{}}
}

// rollupName says what a rollup row is of. An id has no NUL, so the tags can't run together.
type rollupName struct {
	hour spend.Hour
	ids  [6]string
	dims [5]string
	tags string
}

func nameOf(hour spend.Hour, s *spend.Series) rollupName {
	tags := ""
	if len(s.Tags) > 0 {
		tags = strings.Join(slices.Compact(slices.Sorted(slices.Values(s.Tags))), "\x00")
	}
	return rollupName{
		hour, [...]string{s.APIKey, s.UserID, s.EndUserID, s.TeamID, s.OrganizationID, s.AgentID},
		[...]string{s.Model, s.ModelGroup, s.CustomLLMProvider, s.MCPNamespacedToolName, s.Endpoint}, tags,
	}
}

// book counts the update by the rules of the design, with none of the code under test.
func (b *books) book(u *spend.Update, hour spend.Hour) {
	c := spend.Counters{
		Spend: u.Spend, PromptTokens: u.PromptTokens, CompletionTokens: u.CompletionTokens,
		CacheReadInputTokens: u.CacheReadInputTokens, CacheCreationInputTokens: u.CacheCreationInputTokens,
	}
	if u.Status == spend.Success {
		c.SuccessfulRequests = 1
	} else {
		c.FailedRequests = 1
	}
	b.updates++
	b.amount = b.amount.Add(u.Spend)
	add := func(e spend.Entity) {
		sum := b.totals[e]
		sum.Add(&c)
		b.totals[e] = sum
	}
	for t, id := range map[spend.EntityType]string{
		spend.APIKey: u.APIKey, spend.User: u.UserID, spend.EndUser: u.EndUserID, spend.Team: u.TeamID, spend.Organization: u.OrganizationID, spend.Agent: u.AgentID,
	} {
		if id != "" {
			add(spend.Entity{Type: t, ID: id})
		}
	}
	if u.TeamID != "" && u.UserID != "" {
		add(spend.Entity{Type: spend.TeamMember, ID: u.UserID, TeamID: u.TeamID})
	}
	for _, tag := range slices.Compact(slices.Sorted(slices.Values(u.Tags))) {
		add(spend.Entity{Type: spend.Tag, ID: tag})
	}
	name := nameOf(hour, &u.Series)
	sum := b.rollups[name]
	sum.Add(&c)
	b.rollups[name] = sum
}

// apply adds rows as a database would: by entity and by series.
func (b *books) apply(totals []spend.TotalRow, rollups []spend.RollupRow) {
	for i := range totals {
		sum := b.totals[totals[i].Entity]
		sum.Add(&totals[i].Counters)
		b.totals[totals[i].Entity] = sum
	}
	for i := range rollups {
		series := rollups[i].Series()
		name := nameOf(rollups[i].Hour, &series)
		sum := b.rollups[name]
		sum.Add(&rollups[i].Counters)
		b.rollups[name] = sum
		b.updates += rollups[i].Counters.APIRequests()
		b.amount = b.amount.Add(rollups[i].Counters.Spend)
	}
}

// mustEqual fails the test with the first difference.
func (b *books) mustEqual(t testing.TB, want *books) {
	t.Helper()
	if diff := b.diff(want); diff != "" {
		t.Fatal(diff)
	}
}

func (b *books) diff(want *books) string {
	if b.updates != want.updates || b.amount != want.amount {
		return fmt.Sprintf("books have %d updates of %s, want %d of %s", b.updates, b.amount, want.updates, want.amount)
	}
	if !maps.Equal(b.totals, want.totals) {
		for e, sum := range want.totals {
			if b.totals[e] != sum {
				return fmt.Sprintf("%+v has %+v, want %+v", e, b.totals[e], sum)
			}
		}
		return fmt.Sprintf("%d totals, want %d", len(b.totals), len(want.totals))
	}
	if !maps.Equal(b.rollups, want.rollups) {
		for name, sum := range want.rollups {
			if b.rollups[name] != sum {
				return fmt.Sprintf("series %+v has %+v, want %+v", name, b.rollups[name], sum)
			}
		}
		return fmt.Sprintf("%d rollups, want %d", len(b.rollups), len(want.rollups))
	}
	return ""
}

// addUpdate adds the update as Record does once it has checked the cost.
func (m *openMap) addUpdate(u *spend.Update, hour spend.Hour) (seal uint64, err error) {
	return m.add("", &u.Series, &u.Cost, hour)
}

// sealed takes what is open as the pipeline does, and returns the rows of each shard, a part for
// each batch.
func sealed(m *openMap, s *sealer) (seal uint64, shards [][]rowsPart) {
	seal, dirty, _ := m.swap(false)
	if seal == 0 {
		return 0, nil
	}
	shards = s.parts(seal, dirty)
	m.recycle(dirty)
	return seal, shards
}

// sealUpdates books the updates and returns the rows that they make in one batch.
func sealUpdates(t testing.TB, updates []spend.Update, hour spend.Hour) rowsPart {
	t.Helper()
	m := newOpenMap(1_000_000, spend.AllDimensions, 0)
	for i := range updates {
		if _, err := m.addUpdate(&updates[i], hour); err != nil {
			t.Fatal(err)
		}
	}
	_, shards := sealed(m, newSealer(1, 1_000_000))
	if len(shards[0]) != 1 {
		t.Fatalf("%d updates make %d batches, want one", len(updates), len(shards[0]))
	}
	return shards[0][0]
}

func randomRows(t testing.TB, r *rand.Rand, updates int) rowsPart {
	t.Helper()
	all := make([]spend.Update, updates)
	for i := range all {
		all[i] = randomUpdate(r)
	}
	return sealUpdates(t, all, spend.Hour(r.IntN(3)-1))
}

func testHeader(producer spend.ProducerID, sequence uint64) spend.Header {
	return spend.Header{Producer: producer, Sequence: sequence, SealedAt: testNow, Books: testBooks}
}

// plainRollup is a rollup row with nothing hidden, to be compared.
type plainRollup struct {
	Key      spend.Key
	Hour     spend.Hour
	Counters spend.Counters
	Series   spend.Series
}

func plain(rows []spend.RollupRow) []plainRollup {
	out := make([]plainRollup, len(rows))
	for i := range rows {
		out[i] = plainRollup{rows[i].Key, rows[i].Hour, rows[i].Counters, rows[i].Series()}
	}
	return out
}

// sameRows says whether both have the same rows in the same order.
func sameRows(aTotals, bTotals []spend.TotalRow, aRollups, bRollups []spend.RollupRow) bool {
	return slices.Equal(aTotals, bTotals) && reflect.DeepEqual(plain(aRollups), plain(bRollups))
}

// logTo returns a logger that writes text.
func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// testPlan returns a plan for the first shard of the books that tests have.
func testPlan() *plan {
	p := newPlan(0)
	p.books = testBooks
	return p
}

// newRand returns a source of a fixed seed, so that a failure comes again.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(1, uint64(len(t.Name()))))
}

// reframe makes the length and checksum of changed bytes right again, as damage before sealing
// would have it.
func reframe(b []byte) []byte {
	b = bytes.Clone(b)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)))
	checksum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	checksum.Write(b[:4])
	checksum.Write(b[8:])
	binary.BigEndian.PutUint32(b[4:], checksum.Sum32())
	return b
}

func mustParse(t testing.TB, b []byte) *spend.Batch {
	t.Helper()
	batch, err := spend.ParseBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func mustRows(t testing.TB, b *spend.Batch) *spend.Rows {
	t.Helper()
	rows, err := b.Rows()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
