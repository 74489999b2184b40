package load

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/spend"
)

func TestAddRollupOnceAddsAnIDOnce(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), testserver.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	tables, err := MakeTables(t.Context(), pool, "once")
	if err != nil {
		t.Fatal(err)
	}

	u := spend.Update{Cost: spend.Cost{Spend: spend.Picodollars(7), PromptTokens: 3}}
	u.APIKey = "key"
	c := Counters(&u)
	for i, id := range []string{"a", "a", "b"} {
		added, err := tables.AddRollupOnce(t.Context(), pool, id, u.Series.Key(), 1000, &c)
		if err != nil || added != (i != 1) {
			t.Errorf("%d: %v, %v", i, added, err)
		}
	}
	got, err := tables.Updates(t.Context())
	want := c
	want.Add(&c)
	if err != nil || got != want {
		t.Errorf("%+v instead of %+v, %v", got, want, err)
	}
}
