package load

import (
	"fmt"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

func TestRowsWrittenInBulkAddUpLikeThoseWrittenOneByOne(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), testserver.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	single, err := MakeTables(t.Context(), pool, "single")
	if err != nil {
		t.Fatal(err)
	}
	bulk, err := MakeTables(t.Context(), pool, "bulk")
	if err != nil {
		t.Fatal(err)
	}

	for _, n := range []int{1, BulkRows, BulkRows + 1, 2*BulkRows + 37} { // most rows are there already, then
		var sums []Sum
		for i := range n {
			u := spend.Update{Cost: spend.Cost{Spend: spend.Picodollars(int64(i + 1)), PromptTokens: int64(n)}}
			u.APIKey = fmt.Sprint("key", i)
			c := Counters(&u)
			key := u.Series.Key()
			sums = append(sums, Sum{key, &c})
			if err := single.AddTotal(t.Context(), pool, key, &c); err != nil {
				t.Fatal(err)
			}
			if err := single.AddRollup(t.Context(), pool, key, 1000, &c); err != nil {
				t.Fatal(err)
			}
		}
		SortSums(sums)
		if err := bulk.AddTotals(t.Context(), pool, sums); err != nil {
			t.Fatal(err)
		}
		if err := bulk.AddRollups(t.Context(), pool, 1000, sums); err != nil {
			t.Fatal(err)
		}
	}

	want, err := single.Entities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := bulk.Entities(t.Context())
	if err != nil || len(got) != 2*BulkRows+37 || !maps.Equal(got, want) {
		t.Errorf("totals are %v instead of %v, %v", got, want, err)
	}
	all, err := single.Updates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if rollups, err := bulk.Updates(t.Context()); err != nil || rollups != all {
		t.Errorf("rollups are %+v instead of %+v, %v", rollups, all, err)
	}
}
