package memstore_test

import (
	"testing"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/memstore"
	"github.com/spendflush/spendflush/sql/storetest"
)

func TestMemoryIsAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) spend.Store { return memstore.New(memstore.Options{}) })
}

func TestMemoryIsAStoreOfFacts(t *testing.T) {
	storetest.RunFacts(t, func(*testing.T) storetest.Books { return memstore.New(memstore.Options{}) },
		func(t *testing.T, s storetest.Books) {
			var sealed, kept spend.FactSum
			state := s.(*memstore.Store).Snapshot()
			for _, p := range state.Producers {
				sealed = sealed.Plus(spend.FactSum{Updates: p.Mark.Updates, Amount: p.Mark.Amount})
				kept = kept.Plus(spend.FactSum{Updates: p.Updates, Amount: p.Amount}).Plus(p.Duplicates).Plus(p.Conflicts)
			}
			if sum := s.(*memstore.Store).Sum(); state.Missing() == 0 && sealed != kept || sum.APIRequests() > kept.Updates {
				t.Errorf("sealed is %+v; booked and taken out are %+v", sealed, kept)
			}
		})
}
