package spendflush_test

import (
	"context"
	"fmt"
	"log"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/sql/memstore"
)

// A caller that got no answer asks again, under the same key: perhaps at another instance. Whether the first call had
// counted is known once the second one is committed.
func ExamplePipeline_RecordOnce() {
	ctx := context.Background()
	store, lock := memstore.New(memstore.Options{}), memlock.New("books")
	updates := []spendflush.Update{
		{Cost: spendflush.Cost{Spend: spendflush.Dollars(1)}, Series: spendflush.Series{APIKey: "key-1", TeamID: "team-1"}},
		{Cost: spendflush.Cost{Spend: spendflush.Dollars(2)}, Series: spendflush.Series{APIKey: "key-2", TeamID: "team-1"}},
	}
	for _, name := range []string{"first", "second"} {
		p, err := spendflush.New(spendflush.Config{Instance: name, Store: store, DirectLocker: lock})
		if err != nil {
			log.Fatal(err)
		}
		running := make(chan error, 1)
		go func() { running <- p.Run(ctx) }()

		receipt, err := p.RecordOnce("request-17", updates)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := p.Wait(ctx, receipt, spendflush.Committed); err != nil {
			log.Fatal(err)
		}
		counts := p.Counts(receipt)
		fmt.Println(name, "instance:", counts.New, "new,", counts.Duplicates, "duplicates")

		if err := p.Shutdown(ctx); err != nil {
			log.Fatal(err)
		}
		if err := <-running; err != nil {
			log.Fatal(err)
		}
	}
	total := store.Total(spendflush.Entity{Type: spendflush.Team, ID: "team-1"})
	fmt.Println("team-1 has spent", total.Spend)
	// Output:
	// first instance: 2 new, 0 duplicates
	// second instance: 0 new, 2 duplicates
	// team-1 has spent 3
}
