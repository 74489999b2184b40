package memstore_test

import (
	"context"
	"fmt"
	"log"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/sql/memstore"
)

// A test of a service that embeds the library: the whole way of an update, without a server.
func Example() {
	ctx := context.Background()
	store := memstore.New(memstore.Options{})
	p, err := spendflush.New(spendflush.Config{
		Instance:     "test",
		Store:        store,
		Queue:        memqueue.New(memqueue.Options{}),
		Locker:       memlock.New("test"),
		DirectLocker: memlock.New("test"),
	})
	if err != nil {
		log.Fatal(err)
	}
	running := make(chan error, 1)
	go func() { running <- p.Run(ctx) }()

	// What the service does.
	cost, err := spendflush.ParseAmount("0.000123")
	if err != nil {
		log.Fatal(err)
	}
	update := spendflush.Update{Cost: spendflush.Cost{Spend: cost}, Series: spendflush.Series{APIKey: "key-1", TeamID: "team-1"}}
	receipt, err := p.RecordAll([]spendflush.Update{update, update})
	if err != nil {
		log.Fatal(err)
	}

	// What the test looks at, once all is booked.
	if _, err := p.Wait(ctx, receipt, spendflush.Committed); err != nil {
		log.Fatal(err)
	}
	total := store.Total(spendflush.Entity{Type: spendflush.Team, ID: "team-1"})
	fmt.Println("team-1 has spent", total.Spend, "in", total.APIRequests(), "requests")

	if err := p.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	if err := <-running; err != nil {
		log.Fatal(err)
	}
	// Output:
	// team-1 has spent 0.000246 in 2 requests
}
