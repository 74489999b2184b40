package spendflush_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// One instance, from its making to its end. With Redis, the queue is redisqueue.New and its locker
// redislock.New.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	databaseURL, stopPostgres := privatePostgres(ctx) // yours comes from the configuration
	defer stopPostgres()

	if _, err := migrations.Up(ctx, databaseURL); err != nil {
		log.Fatal(err)
	}
	store, err := pgstore.Open(ctx, databaseURL, pgstore.Options{MaxConns: 8})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	p, err := spendflush.New(spendflush.Config{
		Instance:     "gateway-1",
		Store:        store,
		Queue:        memqueue.New(memqueue.Options{}),
		Locker:       memlock.New("gateway-1"),
		DirectLocker: pglock.New(store.Pool(), "gateway-1"),
	})
	if err != nil {
		log.Fatal(err)
	}
	running := make(chan error, 1)
	go func() { running <- p.Run(ctx) }()

	// On the hot path: no I/O, no waiting.
	cost, err := spendflush.ParseAmount("0.000123")
	if err != nil {
		log.Fatal(err)
	}
	series := spendflush.Series{APIKey: "key-1", TeamID: "team-1", Model: "gpt-5", Tags: []string{"batch"}}
	if err := p.Record(&spendflush.Update{Cost: spendflush.Cost{Spend: cost, PromptTokens: 12}, Series: series}); err != nil {
		log.Fatal(err)
	}

	// Where it matters that an update is safe, wait for it.
	receipt, err := p.RecordAll([]spendflush.Update{{Cost: spendflush.Cost{Spend: cost, PromptTokens: 30}, Series: series}})
	if err != nil {
		log.Fatal(err)
	}
	stage, err := p.Wait(ctx, receipt, spendflush.Committed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the second update is", stage)

	// A service waits for its end here. This one gets its signal now.
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		log.Fatal(err)
	}
	// First end whatever records, such as an HTTP server, then wait for Run: it drains.
	if err := <-running; errors.Is(err, spendflush.ErrNotDrained) {
		log.Fatal(err) // with the number of updates and the amount that are left
	}

	ctx = context.WithoutCancel(ctx)
	report, err := store.Spend(ctx, spendflush.Entity{Type: spendflush.Team, ID: "team-1"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("team-1 has spent", report.Committed.Spend, "in", report.Committed.APIRequests(), "requests")
	// Output:
	// the second update is committed
	// team-1 has spent 0.000246 in 2 requests
}

// privatePostgres starts a Postgres for the example.
func privatePostgres(ctx context.Context) (url string, stop func()) {
	dir, err := os.MkdirTemp("", "spendflush-example-")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for the user that Postgres runs as
		log.Fatal(err)
	}
	postgres, err := servers.StartPostgres(ctx, servers.PostgresConfig{Dir: filepath.Join(dir, "postgres")})
	if err != nil {
		log.Fatal(err)
	}
	return postgres.URL("postgres"), func() {
		if err := postgres.Stop(context.WithoutCancel(ctx)); err != nil {
			log.Fatal(err)
		}
		_ = os.RemoveAll(dir)
	}
}
