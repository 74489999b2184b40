package pgstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/spend"
)

func TestMain(m *testing.M) { testserver.Main(m) }

// database returns the URL of a new database with the tables in it.
func database(t testing.TB) string {
	t.Helper()
	return testserver.PostgresFilled(t, "books", func(databaseURL string) { migrate(t, databaseURL) })
}

func migrate(t testing.TB, databaseURL string) {
	t.Helper()
	if _, err := migrations.Up(t.Context(), databaseURL); err != nil {
		t.Fatal(err)
	}
	giveTestBooks(t, databaseURL)
}

// testBooks are the books of every database of these tests, so that flushes can be made before it.
var testBooks = spend.BooksID{0xb0, 0x0c, 15: 1}

func giveTestBooks(t testing.TB, databaseURL string) {
	t.Helper()
	s, err := Open(t.Context(), databaseURL, Options{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.NewBooksID(t.Context(), testBooks); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, databaseURL string, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), databaseURL, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// query reads one value past the Store's own statements.
func query[T any](t testing.TB, s *Store, text string, args ...any) (value T) {
	t.Helper()
	if err := s.pool.QueryRow(context.WithoutCancel(t.Context()), text, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

func execute(t testing.TB, pool *pgxpool.Pool, text string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// request is one update as it is booked.
type request struct {
	series   spend.Series
	hour     spend.Hour
	counters spend.Counters
}

var noon = spend.HourOf(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC))

func dollars(text string) spend.Amount {
	a, err := spend.ParseAmount(text)
	if err != nil {
		panic(err)
	}
	return a
}

// one is a successful request that cost this much.
func one(amount string) spend.Counters {
	return spend.Counters{Spend: dollars(amount), SuccessfulRequests: 1, PromptTokens: 10, CompletionTokens: 5}
}

// entities says whom a series counts on, apart from the code that the pipeline uses.
func entities(s *spend.Series) (list []spend.Entity) {
	add := func(t spend.EntityType, id, team string) {
		if id != "" {
			list = append(list, spend.Entity{Type: t, ID: id, TeamID: team})
		}
	}
	add(spend.APIKey, s.APIKey, "")
	add(spend.User, s.UserID, "")
	add(spend.EndUser, s.EndUserID, "")
	add(spend.Team, s.TeamID, "")
	if s.TeamID != "" {
		add(spend.TeamMember, s.UserID, s.TeamID)
	}
	add(spend.Organization, s.OrganizationID, "")
	for _, tag := range s.Tags {
		add(spend.Tag, tag, "")
	}
	add(spend.Agent, s.AgentID, "")
	return list
}

// flushOf returns the flush of these requests, as batch first to last of the producer, each batch a
// whole seal.
func flushOf(producer spend.ProducerID, first, last uint64, requests ...request) *spend.Flush {
	f := &spend.Flush{Books: testBooks}
	totals := map[spend.Key]*spend.TotalRow{}
	type place struct {
		hour spend.Hour
		key  spend.Key
	}
	rollups := map[place]*spend.RollupRow{}
	for _, r := range requests {
		row := spend.NewRollupRow(&r.series, r.hour, r.counters)
		f.Control.Rollups.Add(&r.counters)
		if known := rollups[place{r.hour, row.Key}]; known != nil {
			known.Counters.Add(&r.counters)
		} else {
			rollups[place{r.hour, row.Key}] = &row
		}
		for _, e := range entities(&r.series) {
			f.Control.Of(e.Type).Add(&r.counters)
			if known := totals[e.Key()]; known != nil {
				known.Counters.Add(&r.counters)
			} else {
				totals[e.Key()] = &spend.TotalRow{Key: e.Key(), Entity: e, Counters: r.counters}
			}
		}
	}
	for _, row := range totals {
		f.Totals = append(f.Totals, *row)
	}
	for _, row := range rollups {
		f.Rollups = append(f.Rollups, *row)
	}
	slices.SortFunc(f.Totals, func(a, b spend.TotalRow) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(f.Rollups, func(a, b spend.RollupRow) int {
		return cmp.Or(cmp.Compare(a.Hour, b.Hour), a.Key.Compare(b.Key))
	})
	claim := spend.Claim{
		Producer: producer, First: first, Last: last, Prior: digestAt(first - 1), Digest: digestAt(last),
		Updates: f.Control.Rollups.APIRequests(), Amount: f.Control.Rollups.Spend,
	}
	sealedUpTo.extend(&claim)
	f.Claims = []spend.Claim{claim}
	return f
}

// digestAt is the digest of the batch of that sequence in these tests, whatever it holds.
func digestAt(sequence uint64) (d spend.Digest) {
	binary.BigEndian.PutUint64(d[8:], sequence)
	return d
}

// sealedUpTo has the sums of all batches of a producer up to a sequence, as its headers would tell
// them.
var sealedUpTo = sealedSums{sums: map[sealedPlace]spend.Counters{}}

type sealedSums struct {
	mu   sync.Mutex
	sums map[sealedPlace]spend.Counters
}

type sealedPlace struct {
	producer spend.ProducerID
	sequence uint64
}

func (s *sealedSums) extend(c *spend.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.sums[sealedPlace{c.Producer, c.First - 1}]
	sum.Add(&spend.Counters{Spend: c.Amount, SuccessfulRequests: c.Updates})
	s.sums[sealedPlace{c.Producer, c.Last}] = sum
	c.SealedUpdates, c.SealedAmount = sum.SuccessfulRequests, sum.Spend
}

// traffic returns n requests on combinations out of a population.
func traffic(r *rand.Rand, n, population int) []request {
	requests := make([]request, n)
	for i := range requests {
		p := r.IntN(population)
		requests[i] = request{
			series: spend.Series{
				APIKey: fmt.Sprintf("key-%d", p), UserID: fmt.Sprintf("user-%d", p%50), TeamID: fmt.Sprintf("team-%d", p%7),
				OrganizationID: fmt.Sprintf("org-%d", p%3), Model: fmt.Sprintf("model-%d", p%4), Tags: tagsOf(p),
			},
			hour:     noon + spend.Hour(r.IntN(3)),
			counters: spend.Counters{Spend: spend.Picodollars(r.Int64N(1e12)), PromptTokens: r.Int64N(1000)},
		}
		if r.IntN(10) == 0 {
			requests[i].counters.FailedRequests = 1
		} else {
			requests[i].counters.SuccessfulRequests = 1
		}
	}
	return requests
}

func tagsOf(p int) []string {
	switch p % 3 {
	case 0:
		return nil
	case 1:
		return []string{"tag-a"}
	default:
		return []string{"tag-a", "tag-b"}
	}
}

func newProducer() spend.ProducerID { return spend.NewProducerID(time.Now()) }

// apply must succeed.
func apply(t testing.TB, s *Store, f *spend.Flush) {
	t.Helper()
	if err := s.Apply(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// drift returns what the books differ by from what was claimed: 0 if they are exact.
func drift(t testing.TB, s *Store) string {
	t.Helper()
	return query[string](t, s, `SELECT trim_scale((SELECT coalesce(sum(spend), 0) FROM spendflush.rollup)
		- (SELECT coalesce(sum(amount), 0) FROM spendflush.producers))::text`)
}
