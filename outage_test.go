package spendflush

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// liveHeap returns how many bytes of the heap are in use.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC() // what pools still had after the first
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// Half an hour of updates on the same keys, 250 a second, while Postgres is away. First what is
// sealed fills its bound, in bytes or, where the queue is away too, in batches. Then all goes into
// the sums of the open map.
func TestMemoryIsFlatWhilePostgresIsAwayForHalfAnHour(t *testing.T) {
	for name, redisAway := range map[string]bool{"Redis is there": false, "Redis is away too": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { postgresAwayForHalfAnHour(t, redisAway) })
		})
	}
}

func postgresAwayForHalfAnHour(t *testing.T, redisAway bool) {
	const keys, bound = 100, 1 << 20
	postgres, redis := &faults{}, &faults{}
	r := newRig(t, true, 1, redis)
	r.cfg.Store = faultyStore{r.store, postgres}
	r.cfg.DirectLocker = faultyLocker{newTestLocker(), postgres}
	if !redisAway {
		r.cfg.MaxUnconfirmedBytes = bound
	}
	var updates [keys]spend.Update
	for i := range updates {
		updates[i] = benchUpdate(i)
	}
	rounds := 0
	recordFor := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); rounds++ {
			for i := range updates {
				if err := r.Record(&updates[i]); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(400 * time.Millisecond)
		}
	}
	r.start(t)
	recordFor(time.Minute)
	before := liveHeap()
	postgres.setAll(true)
	redis.setAll(redisAway)
	recordFor(5 * time.Minute)
	early, earlySeals := liveHeap(), r.Status().Shards[0].Sealed
	recordFor(25 * time.Minute)
	late, status := liveHeap(), r.Status()
	if early-before > 4*bound || late-early > bound/20 {
		t.Errorf("memory grew by %d bytes in the first five minutes and by %d in the next 25", early-before, late-early)
	}
	if status.Open.Keys != keys || status.Open.Updates < 25*60*keys*5/2 || status.Shards[0].Sealed != earlySeals {
		t.Errorf("%d keys with %d updates are open, %d seals later; want %d keys and the updates of 25 minutes",
			status.Open.Keys, status.Open.Updates, status.Shards[0].Sealed-earlySeals, keys)
	}
	postgres.setAll(false)
	redis.setAll(false)
	for i := range updates {
		for range rounds {
			r.want.book(&updates[i], spend.HourOf(time.Now()))
		}
	}
	r.end(t)
}
