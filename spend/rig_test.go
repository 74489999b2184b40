package spend

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// testSlots is how many keys KnownKeys of tests remember.
const testSlots = 1 << 17

// testNow is when the batches of tests were sealed.
var testNow = time.UnixMilli(1_790_000_000_123)

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
	binary.BigEndian.PutUint32(b[4:], batchChecksum(b))
	return b
}

func mustParse(t testing.TB, b []byte) *Batch {
	t.Helper()
	batch, err := ParseBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func mustRows(t testing.TB, b *Batch) *Rows {
	t.Helper()
	rows, err := b.Rows()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// testProducer returns the n-th producer, always the same.
func testProducer(n int) (id ProducerID) {
	copy(id[:], fmt.Sprintf("test%012d", n))
	return id
}

func testHeader(producer ProducerID, sequence uint64) Header {
	return Header{Producer: producer, Sequence: sequence, SealedAt: testNow, Books: BooksID{1}}
}

// testRows are the rows of a batch.
type testRows struct {
	totals  []TotalRow
	rollups []RollupRow
}

// randomRows returns rows of so many series, or fewer, that share entities.
func randomRows(t testing.TB, r *rand.Rand, series int) testRows {
	t.Helper()
	totals, rollups := map[Key]TotalRow{}, map[Key]RollupRow{}
	hour := Hour(r.IntN(3) - 1)
	for range series {
		s := Series{APIKey: fmt.Sprint("key", r.IntN(9)), Model: fmt.Sprint("model", r.IntN(3))}
		if r.IntN(2) == 0 {
			s.UserID, s.TeamID = fmt.Sprint("user", r.IntN(3)), fmt.Sprint("team", r.IntN(2))
		}
		for range r.IntN(3) {
			s.Tags = append(s.Tags, fmt.Sprint("tag", r.IntN(3)))
		}
		s.Tags = slices.Compact(slices.Sorted(slices.Values(s.Tags)))
		row := NewRollupRow(&s, hour, Counters{
			Spend: Picodollars(r.Int64N(2_000_000_000_000) - 100_000_000_000), SuccessfulRequests: 1 + r.Int64N(5), FailedRequests: r.Int64N(2),
			PromptTokens: r.Int64N(1000), CompletionTokens: r.Int64N(1000), CacheCreationInputTokens: r.Int64N(2) * r.Int64N(MaxTokens),
		})
		if _, there := rollups[row.Key]; there {
			continue
		}
		rollups[row.Key] = row
		s.EachEntity(func(e Entity) {
			total := totals[e.Key()]
			total.Key, total.Entity = e.Key(), e
			total.Counters.Add(&row.Counters)
			totals[e.Key()] = total
		})
	}
	return testRows{
		slices.SortedFunc(maps.Values(totals), func(a, b TotalRow) int { return a.Key.Compare(b.Key) }),
		slices.SortedFunc(maps.Values(rollups), func(a, b RollupRow) int { return a.Compare(&b) }),
	}
}

// sumOf adds up rows.
func sumOf(rows []RollupRow) (sum Counters) {
	for i := range rows {
		sum.Add(&rows[i].Counters)
	}
	return sum
}

// sameRows says whether both have the same rows in the same order.
func sameRows(aTotals, bTotals []TotalRow, aRollups, bRollups []RollupRow) bool {
	return slices.Equal(aTotals, bTotals) && slices.EqualFunc(aRollups, bRollups, func(a, b RollupRow) bool {
		return a.Key == b.Key && a.Hour == b.Hour && a.Counters == b.Counters && reflect.DeepEqual(a.Series(), b.Series())
	})
}
