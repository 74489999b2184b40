package lockers_test

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/pglock"
	"github.com/spendflush/spendflush/spend"
)

// kinds are the lockers that docs/locks.md compares.
var kinds = []struct {
	name string
	url  func(t testing.TB) string
}{
	{"redis", func(t testing.TB) string { return testserver.Redis(t) }},
	{"postgres", func(t testing.TB) string { return database(t) }},
	{"pgbouncer", func(t testing.TB) string { return testserver.PgBouncer(t, database(t), nil) }},
}

func openKind(t testing.TB, kind, url string, ttl time.Duration) spend.Locker {
	if kind == "redis" {
		return openRedis(t, dial(t, url), "bench", ttl)
	}
	return pglock.New(openPool(t, url), "bench").WithTTL(ttl)
}

// BenchmarkLock measures a lock won and released again, and one that is refused because another has
// it, which is what all instances but one get.
func BenchmarkLock(b *testing.B) {
	for _, kind := range kinds {
		url := kind.url(b)
		b.Run("won/"+kind.name, func(b *testing.B) {
			l := openKind(b, kind.name, url, ttl)
			measure(b, func() error {
				lease, err := l.Acquire(context.Background(), lock)
				if err != nil {
					return err
				}
				return lease.Release(context.Background())
			})
		})
		b.Run("refused/"+kind.name, func(b *testing.B) {
			l := openKind(b, kind.name, url, time.Minute)
			acquire(b, l)
			measure(b, func() error {
				if _, err := l.Acquire(context.Background(), lock); !errors.Is(err, spend.ErrHeld) {
					return errors.Join(errors.New("not refused"), err)
				}
				return nil
			})
		})
	}
}

// measure reports the median and the 99th percentile of what once takes.
func measure(b *testing.B, once func() error) {
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if err := once(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	microseconds := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	b.ReportMetric(microseconds(took[len(took)/2]), "p50-µs")
	b.ReportMetric(microseconds(took[len(took)*99/100]), "p99-µs")
}

// TestTakeover measures how long nobody has the lock after its holder has died, and after its
// network has been cut without a word. It fails only if nobody gets the lock. Run it with -v to see
// the numbers.
func TestTakeover(t *testing.T) {
	const ttl = time.Second
	for _, kind := range kinds {
		url := kind.url(t)
		t.Run(kind.name+"/killed", func(t *testing.T) {
			holder := startChild(t, url, ttl, lock)
			l := openKind(t, kind.name, url, ttl)
			holder.signal(t, syscall.SIGKILL)
			start := time.Now()
			acquireSoon(t, l, lock)
			t.Logf("free %s after the holder was killed; TTL %s", time.Since(start).Round(time.Millisecond), ttl)
		})
		t.Run(kind.name+"/silent", func(t *testing.T) {
			proxied, proxy := through(t, url)
			lease := acquire(t, openKind(t, kind.name, proxied, ttl))
			l := openKind(t, kind.name, url, ttl)
			proxy.Silence(true)
			start := time.Now()
			<-lease.Lost()
			lost := time.Since(start)
			acquireSoon(t, l, lock)
			t.Logf("the holder saw its loss after %s; free %s after the network was cut; TTL %s",
				lost.Round(time.Millisecond), time.Since(start).Round(time.Millisecond), ttl)
			proxy.Silence(false)
		})
	}
}
