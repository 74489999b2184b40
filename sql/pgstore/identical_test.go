package pgstore

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// However the same updates are split over producers, batches, flushes and shards' order, and
// however often flushes are repeated, the tables of the books are the same, byte by byte, but for
// whose marks brought them and when.
func TestAnySplitOrderAndRepetitionMakesIdenticalTables(t *testing.T) {
	requests := traffic(rand.New(rand.NewPCG(31, 1)), 400, 60)
	var first string
	for seed := range uint64(4) {
		s := open(t, database(t), Options{})
		r := rand.New(rand.NewPCG(32, seed))
		rest := append([]request(nil), requests...)
		r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		producers := []spend.ProducerID{newProducer(), newProducer(), newProducer()}
		sequences := map[spend.ProducerID]uint64{}
		for len(rest) > 0 {
			p := producers[r.IntN(len(producers))]
			n := 1 + r.IntN(min(len(rest), 90))
			batches := 1 + r.Uint64N(3)
			f := flushOf(p, sequences[p]+1, sequences[p]+batches, rest[:n]...)
			sequences[p] += batches
			rest = rest[n:]
			apply(t, s, f)
			if r.IntN(2) == 0 {
				if err := s.Apply(t.Context(), f); !errors.Is(err, spend.ErrFenced) {
					t.Fatalf("a repetition: %v", err)
				}
			}
		}
		got := query[string](t, s, `SELECT md5(concat_ws('/',
			(SELECT string_agg((to_jsonb(x) - 'changes')::text, ',' ORDER BY x.book) FROM spendflush.control x),
			(SELECT string_agg(x::text, ',' ORDER BY x.key) FROM spendflush.entity x),
			(SELECT string_agg(x::text, ',' ORDER BY x.key) FROM spendflush.series x),
			(SELECT string_agg(x::text, ',' ORDER BY x.tag, x.series) FROM spendflush.series_tag x),
			(SELECT string_agg(x::text, ',' ORDER BY x.day, x.hour, x.series) FROM spendflush.rollup x),
			(SELECT string_agg((to_jsonb(x) - 'updated_at')::text, ',' ORDER BY x.entity) FROM spendflush.total x),
			(SELECT sum(updates) || ' ' || sum(amount) FROM spendflush.producers)))`)
		if first == "" {
			first = got
		}
		if got != first {
			t.Errorf("split %d makes other tables", seed)
		}
		wantAudit(t, s)
	}
}
