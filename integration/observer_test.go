package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// observer watches instances and their database until it is stopped.
type observer struct {
	t         testing.TB
	stack     *stack
	instances []*instance
	cancel    context.CancelFunc
	done      chan struct{}

	// To be read after stop.
	rounds      int
	terms       []term
	connections int64 // most that there were at a time
	writers     int64 // most transactions that wrote to the books at a time
	wrote       int   // how often there was one
	err         error
}

// term is a time in which an instance surely held the lock of a shard.
type term struct {
	instance, shard string
	start, end      time.Time
}

func observe(t testing.TB, s *stack, instances []*instance) *observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{t: t, stack: s, instances: instances, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		if err := o.run(ctx); ctx.Err() == nil {
			o.err = err
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-o.done
	})
	return o
}

func (o *observer) stop() {
	o.t.Helper()
	o.cancel()
	<-o.done
	if o.err != nil {
		o.t.Errorf("observer: %v", o.err)
	}
}

func (o *observer) run(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, o.stack.postgres)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		for _, in := range o.instances {
			// Postgres is looked at more often than each instance.
			if err := o.checkPostgres(ctx, conn); err != nil {
				return err
			}
			if err := o.checkLock(in); err != nil {
				return err
			}
		}
		o.rounds++
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (o *observer) checkPostgres(ctx context.Context, conn *pgx.Conn) error {
	var connections, writers int64
	// A flush locks what it writes to. What else an instance writes (a witness of the books, an
	// audit's outcome) may well be at the same time.
	err := conn.QueryRow(ctx, `SELECT count(*), (SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND c.relname = 'rollup' AND l.mode = 'RowExclusiveLock' AND l.granted)
		FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'`).Scan(&connections, &writers)
	o.connections = max(o.connections, connections)
	o.writers = max(o.writers, writers)
	o.wrote += int(min(1, writers))
	return err
}

// checkLock notes the times in which the instance held locks. Scrapes of several instances aren't
// made at one moment, so two may rightly say 1 one after the other. But when a scrape says 1 and
// for how long already, the instance held the lock from that long before the answer came to when it
// was asked for.
func (o *observer) checkLock(in *instance) error {
	asked := time.Now()
	m, err := in.scrape()
	answered := time.Now()
	if err != nil {
		return err
	}
	for key, value := range m {
		labels, isLock := strings.CutPrefix(key, "litellm_pod_lock_manager_size{")
		if !isLock || value == 0 {
			continue
		}
		if value != 1 || !strings.Contains(labels, in.name) {
			return fmt.Errorf("%s says %s %v", in.name, key, value)
		}
		job, _, _ := strings.Cut(strings.TrimPrefix(labels, `pod_lock_manager="flush/`), ":")
		held := m.sum("spendflush_lock_held_seconds", fmt.Sprintf("shard=%q", job))
		start := answered.Add(-time.Duration(held * float64(time.Second)))
		if start.Before(asked) {
			o.terms = append(o.terms, term{in.name, job, start, asked})
		}
	}
	return nil
}

// checkOneHolder fails if two instances held the lock of a shard at the same time.
func (o *observer) checkOneHolder() {
	o.t.Helper()
	for i, a := range o.terms {
		for _, b := range o.terms[i+1:] {
			if a.shard == b.shard && a.instance != b.instance && a.start.Before(b.end) && b.start.Before(a.end) {
				o.t.Errorf("two instances held the lock of shard %s at the same time: %+v, %+v", a.shard, a, b)
			}
		}
	}
	holders := map[string]bool{}
	for _, term := range o.terms {
		holders[term.instance] = true
	}
	if o.rounds > 3 && len(holders) == 0 {
		o.t.Errorf("in %d rounds of scrapes no instance ever held a lock", o.rounds)
	}
	o.t.Logf("%d rounds of scrapes; %d terms seen, of %d instances; at most %d connections; writing transactions: at most %d at a time, seen %d times",
		o.rounds, len(o.terms), len(holders), o.connections, o.writers, o.wrote)
}
