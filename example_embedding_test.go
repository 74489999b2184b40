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

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// A service that has a pool, a Redis client and a registry already gives them to spendflush, and
// closes them itself.
func Example_ownConnections() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	databaseURL, stopPostgres := privatePostgres(ctx) // yours come from the configuration
	defer stopPostgres()
	redisAddress, redisPassword, stopRedis := privateRedis(ctx)
	defer stopRedis()

	// What the service has for its own work.
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	client := redis.NewClient(&redis.Options{Addr: redisAddress, Password: redisPassword, ContextTimeoutEnabled: true})
	registry := prometheus.NewRegistry()

	// What spendflush does with it.
	if _, err := migrations.Up(ctx, pool.Config().ConnString()); err != nil {
		log.Fatal(err)
	}
	store, err := pgstore.NewStore(pool, pgstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	queue, err := redisqueue.New(client, redisqueue.Options{})
	if err != nil {
		log.Fatal(err) // names each option of the client that won't do, and what is allowed
	}
	locker, err := redislock.New(client, "gateway-1", redislock.Options{})
	if err != nil {
		log.Fatal(err)
	}
	p, err := spendflush.New(spendflush.Config{
		Instance: "gateway-1", Store: store, Queue: queue, Locker: locker,
		DirectLocker: pglock.New(pool, "gateway-1"),
		Registerer:   prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": "spend"}, registry),
	})
	if err != nil {
		log.Fatal(err)
	}
	running := make(chan error, 1)
	go func() { running <- p.Run(ctx) }()

	cost := spendflush.Dollars(2)
	err = p.Record(&spendflush.Update{Cost: spendflush.Cost{Spend: cost}, Series: spendflush.Series{APIKey: "key-1", TeamID: "team-1", Model: "gpt-5"}})
	if err != nil {
		log.Fatal(err)
	}

	// The service serves until its signal comes. This one gets it now.
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		log.Fatal(err)
	}
	<-ctx.Done()
	// 1. End whatever records, such as an HTTP server: server.Shutdown.
	// 2. Wait for Run, which drains.
	if err := <-running; errors.Is(err, spendflush.ErrNotDrained) {
		log.Print(err) // with the number of updates and the amount that are left
	}
	// 3. Close the client, and wait for calls on it that were given up. 4. Close the pool, above.
	_ = client.Close()
	queue.Wait()
	locker.Wait()

	after := context.WithoutCancel(ctx)
	if _, err := pool.Exec(after, "SELECT 1"); err != nil {
		log.Fatal(err) // the pool is the service's, as before
	}
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "spendflush_updates_accepted_total" {
			m := family.GetMetric()[0]
			fmt.Println(family.GetName(), m.GetLabel()[0].GetValue(), m.GetCounter().GetValue())
		}
	}
	fmt.Println(drained(after, databaseURL, redisAddress, redisPassword))
	// Output:
	// spendflush_updates_accepted_total spend 1
	// team-1 has spent 2
}

// drained returns what the books say once the queue is drained: Run may leave batches in Redis,
// where they are safe, for another instance.
func drained(ctx context.Context, databaseURL, redisAddress, redisPassword string) string {
	store, err := pgstore.Open(ctx, databaseURL, pgstore.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	client := redis.NewClient(&redis.Options{Addr: redisAddress, Password: redisPassword, ContextTimeoutEnabled: true})
	queue, err := redisqueue.New(client, redisqueue.Options{})
	if err != nil {
		log.Fatal(err)
	}
	locker, err := redislock.New(client, "drain", redislock.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer locker.Wait()
	defer queue.Wait()
	defer client.Close()
	p, err := spendflush.New(spendflush.Config{Store: store, Queue: queue, Locker: locker, DirectLocker: pglock.New(store.Pool(), "drain")})
	if err != nil {
		log.Fatal(err)
	}
	if err := p.DrainQueue(ctx); err != nil {
		log.Fatal(err)
	}
	report, err := store.Spend(ctx, spendflush.Entity{Type: spendflush.Team, ID: "team-1"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	return fmt.Sprint("team-1 has spent ", report.Committed.Spend)
}

// privateRedis starts a Redis for the example.
func privateRedis(ctx context.Context) (address, password string, stop func()) {
	dir, err := os.MkdirTemp("", "spendflush-example-")
	if err != nil {
		log.Fatal(err)
	}
	server, err := servers.StartRedis(ctx, servers.RedisConfig{Dir: filepath.Join(dir, "redis")})
	if err != nil {
		log.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", server.Port()), server.Password(), func() {
		if err := server.Stop(context.WithoutCancel(ctx)); err != nil {
			log.Fatal(err)
		}
		_ = os.RemoveAll(dir)
	}
}
