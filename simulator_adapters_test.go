package spendflush

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// The adapters that an instance gets. Each call of theirs is one of the running actor.

// simServers is what the servers work under: what has reached them is done whether or not its
// caller still waits.
var simServers = context.Background()

// simClock is the clock of an instance. It is never read to measure anything in the adapters.
type simClock struct{ in *simInstance }

// Now returns the virtual time. What it is off the right one shows where it is told to others: in
// the identity of a new process, and in calls that have a parameter for it. Durations come from the
// monotonic clock, and are right.
func (c simClock) Now() time.Time {
	if c.in.born {
		return c.in.s.now
	}
	return c.in.s.now.Add(c.in.skew)
}

// WithTimeout returns ctx as it is: the adapters answer at once, or with the fault that they are to
// give.
func (c simClock) WithTimeout(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (c simClock) Jitter(d time.Duration) time.Duration {
	return time.Duration(c.in.s.r.Int64N(int64(d)))
}

// Sleep gives way until virtual time has come. Short sleeps end at once when nothing goes wrong any
// more.
func (c simClock) Sleep(ctx context.Context, d time.Duration, lost <-chan struct{}) bool {
	in := c.in
	if in.dead {
		return false
	}
	s, a := in.s, in.s.current
	ended := func() bool {
		for _, lease := range a.leases {
			lease.check()
		}
		select {
		case <-lost:
			return true
		default:
			return ctx.Err() != nil
		}
	}
	for wake := s.now.Add(d); s.now.Before(wake); {
		if ended() {
			return false
		}
		if s.calm && d < time.Second {
			s.now = wake
			break
		}
		a.wake, a.ended = wake, ended
		a.giveWay()
		a.wake = time.Time{}
	}
	return !ended()
}

// simStore is Postgres as an instance sees it.
type simStore struct{ *simInstance }

func (p simStore) Books(ctx context.Context) (spend.BooksID, error) {
	var id spend.BooksID
	err := p.call(simPostgres, "ask for the books", func() (err error) {
		got, err := p.deployment.store.Books(simServers)
		id = got
		return err
	})
	if err != nil {
		return spend.BooksID{}, err
	}
	return id, nil
}

func (p simStore) Marks(ctx context.Context, shard int, ids []spend.ProducerID) (spend.Marks, error) {
	ids = slices.Clone(ids)
	known := p.knows[shard]
	var marks spend.Marks
	err := p.call(simPostgres, "read marks", func() (err error) {
		got, err := p.deployment.store.Marks(simServers, shard, ids)
		marks = got
		return err
	})
	if err != nil {
		return spend.Marks{}, err
	}
	if p.knows[shard] = max(p.knows[shard], marks.Changes); marks.Changes < known {
		p.s.note("%s: Postgres was turned back: %d changes instead of %d in shard %d", p.s.current, marks.Changes, known, shard)
		p.knows[shard] = marks.Changes
	}
	return marks, nil
}

var errSimRoom = errors.New("out of memory")

func (p simStore) Apply(ctx context.Context, f *spend.Flush) error {
	s := p.s
	known := p.knows[f.Shard]
	err := p.call(simPostgres, "apply", func() error {
		if p.s.rules.poison && s.isPoisoned(f) {
			return fmt.Errorf("numeric field overflow: %w", spend.ErrRefused)
		}
		if s.rules.room > 0 && len(f.Rollups) > s.rules.room && f.Batches() > 1 {
			return errSimRoom
		}
		if s.rules.window > 0 && s.current.isDirect() {
			s.hide(p.deployment, f.Shard) // it has to go on without Redis
		}
		booked := s.decide(p.deployment, f)
		err := p.deployment.store.Apply(simServers, f)
		if s.trace != nil {
			s.note("%s: applies %s: %v", s.current, s.describe(f), err)
		}
		if err == nil {
			s.applied(p.deployment, f, booked)
		} else {
			s.tally.fenced++
		}
		return err
	})
	if err == nil {
		p.knows[f.Shard] = max(p.knows[f.Shard], known+1)
	}
	return err
}

func (p simStore) Quarantine(ctx context.Context, bad []spend.BadBatch) error {
	bad = slices.Clone(bad)
	return p.call(simPostgres, "quarantine", func() error {
		p.s.quarantined(bad)
		p.deployment.ledger.quarantine(bad)
		return p.deployment.store.Quarantine(simServers, bad)
	})
}

func (p simStore) InQuarantine(ctx context.Context, shard int, sums [][sha256.Size]byte) ([]bool, error) {
	var found []bool
	err := p.call(simPostgres, "look into quarantine", func() (err error) {
		got, err := p.deployment.store.InQuarantine(simServers, shard, sums)
		found = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (p simStore) TouchMarks(ctx context.Context, living []spend.ProducerID, now time.Time, idle time.Duration) (pruned int64, err error) {
	living, now = slices.Clone(living), now.Add(p.skew)
	err = p.call(simPostgres, "touch marks", func() error {
		n, err := p.deployment.store.TouchMarks(simServers, living, now, idle)
		p.s.tally.pruned += int(n)
		return err
	})
	return pruned, err
}

// simQueue is Redis as an instance sees it: the keys of some books in it.
type simQueue struct {
	*simInstance
	keys *testQueue
}

func (q simQueue) ForBooks(id spend.BooksID) spend.Queue {
	return simQueue{q.simInstance, q.s.keysOf(id)}
}

func (q simQueue) Push(ctx context.Context, b *spend.Batch, previous spend.EntryID) (spend.EntryID, error) {
	s := q.s
	var entry spend.EntryID
	err := q.call(simRedis, "push", func() error {
		if s.rules.full > 0 && !s.calm && q.keys.len(b.Shard) >= s.rules.full {
			return spend.ErrQueueFull
		}
		id, err := q.keys.Push(simServers, b, previous)
		s.note("%s is entry %s of shard %d", s.name(b), id, b.Shard)
		s.pushed(b)
		entry = id
		return err
	})
	if err != nil {
		return "", err
	}
	return entry, nil
}

func (q simQueue) Read(ctx context.Context, shard int, after spend.EntryID, n, bytes int) ([]spend.Entry, error) {
	n = min(n, 2+(q.run.number+shard)%3) // few enough for a walk to take several
	var entries []spend.Entry
	err := q.call(simRedis, "read the queue", func() error {
		got, err := q.keys.Read(simServers, shard, after, n, bytes)
		entries = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

func (q simQueue) Ack(ctx context.Context, shard int, a spend.Ack) error {
	return q.call(simRedis, "ack", func() error {
		q.s.note("acks %v, publishes %d changes", a.Entries, a.Booked)
		q.s.checkAcked(q, shard, a.Entries)
		return q.keys.Ack(simServers, shard, a)
	})
}

func (q simQueue) Mark(ctx context.Context, shard int, id spend.ProducerID) (spend.Mark, error) {
	var mark spend.Mark
	err := q.call(simRedis, "read the published mark", func() error {
		got, err := q.keys.Mark(simServers, shard, id)
		mark = got
		return err
	})
	if err != nil {
		return spend.Mark{}, err
	}
	return mark, nil
}

// Stats of the many shards that nobody has are no calls that anything can happen to.
func (q simQueue) Stats(ctx context.Context, shard int) (spend.QueueStats, error) {
	if shard >= simShards {
		return q.keys.Stats(simServers, shard)
	}
	var stats spend.QueueStats
	err := q.call(simRedis, "look at the queue", func() error {
		got, err := q.keys.Stats(simServers, shard)
		stats = got
		return err
	})
	if err != nil {
		return spend.QueueStats{}, err
	}
	return stats, nil
}

func (q simQueue) Booked(ctx context.Context, shard int) (int64, error) {
	var booked int64
	ask := func() error {
		return q.call(simRedis, "read the published number of changes", func() error {
			got, err := q.keys.Booked(simServers, shard)
			booked = got
			return err
		})
	}
	err := ask()
	// A direct write that goes on without an answer can hide that Postgres was turned back. Where
	// nothing may be missing in the end, and Redis is there, it gets one.
	for err != nil && q.s.rules.exact && !q.s.rules.outages && !q.dead && q.s.current.isDirect() {
		err = ask()
	}
	if err != nil {
		return 0, err
	}
	q.knows[shard] = max(q.knows[shard], booked)
	return booked, nil
}

func (q simQueue) Retained(ctx context.Context) ([]int, error) {
	var shards []int
	err := q.call(simRedis, "look what is retained", func() error {
		got, err := q.keys.Retained(simServers)
		shards = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return shards, nil
}

func (q simQueue) Requeue(ctx context.Context, shard int) (int, error) {
	n := 0
	err := q.call(simRedis, "requeue", func() error {
		got, err := q.keys.Requeue(simServers, shard)
		q.s.tally.requeued += got
		n = got
		return err
	})
	return n, err
}

func (q simQueue) Expire(ctx context.Context, shard int, age time.Duration, now time.Time) error {
	now = now.Add(q.skew)
	return q.call(simRedis, "expire", func() error {
		q.s.checkExpired(shard, age)
		return q.keys.Expire(simServers, shard, age, now)
	})
}

// simJournal is the disk of an instance.
type simJournal struct {
	*simInstance
	disk *memoryJournal
	left []*spend.Batch // that earlier processes left
}

func (j simJournal) Append(batches []*spend.Batch) error {
	return j.call(simDisk, "append to the journal", func() error {
		for _, b := range batches {
			j.s.keptSafe(b)
		}
		return j.disk.Append(batches)
	})
}

func (j simJournal) Truncate(shard int, producer spend.ProducerID, mark uint64) error {
	return j.call(simDisk, "forget", func() error {
		j.s.checkPruned(j.disk, shard, producer, mark)
		return j.disk.Truncate(shard, producer, mark)
	})
}

func (j simJournal) Recovered() ([]*spend.Batch, error) {
	batches, err := j.disk.Recovered()
	return slices.DeleteFunc(batches, func(b *spend.Batch) bool { return !slices.Contains(j.left, b) }), err
}

// simLocker has the locks of some books on a server.
type simLocker struct {
	*simInstance
	server simServer
	books  spend.BooksID
}

func (l simLocker) ForBooks(id spend.BooksID) spend.Locker {
	l.books = id
	return l
}

// simLockName is a lock of a server: of Redis, or of the Postgres of these books.
type simLockName struct {
	server simServer
	books  spend.BooksID
	name   string
}

// simLock is a lock as its server knows it.
type simLock struct {
	holder *simLease
	until  time.Time
}

// simLease renews itself while it can.
type simLease struct {
	simLocker
	name  string
	lock  *simLock
	until time.Time // for how long its holder trusts it
	lost  chan struct{}
	over  bool
}

func (l simLocker) Acquire(_ context.Context, name string) (spend.Lease, error) {
	s := l.s
	full := simLockName{l.server, l.books, name}
	if s.locks[full] == nil {
		s.locks[full] = &simLock{}
	}
	if !strings.HasPrefix(name, map[simServer]string{simRedis: "flush/", simPostgres: "direct/"}[l.server]) {
		return nil, fmt.Errorf("lock %s is of another server", name)
	}
	lease := &simLease{simLocker: l, name: name, lock: s.locks[full], until: s.now.Add(simLockTTL), lost: make(chan struct{})}
	if s.rules.lockless {
		return lease, nil
	}
	err := l.call(l.server, "acquire "+name, func() error {
		if lease.lock.holder != nil && s.now.Before(lease.lock.until) {
			return &spend.HeldError{Name: name}
		}
		lease.lock.holder, lease.lock.until = lease, s.now.Add(simLockTTL)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.current.leases = append(s.current.leases, lease)
	return lease, nil
}

func (l simLocker) Holder(context.Context, string) (spend.Holder, error) { return spend.Holder{}, nil }

// Lost is closed where the holder can know that it lost the lock.
func (l *simLease) Lost() <-chan struct{} {
	l.check()
	return l.lost
}

// check renews the lease if that goes, and notices if it is over.
func (l *simLease) check() {
	s := l.s
	if s.rules.lockless || l.over || l.dead {
		return
	}
	if !l.isDown(l.server) && l.lock.holder == l && s.now.Before(l.lock.until) && s.now.Before(l.until) {
		l.lock.until = s.now.Add(simLockTTL)
		l.until = l.lock.until
	}
	if !s.now.Before(l.until) {
		l.end()
	}
}

func (l *simLease) end() {
	if !l.over {
		l.over = true
		close(l.lost)
	}
}

func (l *simLease) Release(context.Context) error {
	if l.s.rules.lockless || l.over || l.dead {
		return nil
	}
	l.end()
	if a := l.s.current; a != nil {
		a.leases = slices.DeleteFunc(a.leases, func(other *simLease) bool { return other == l })
	}
	return l.call(l.server, "release "+l.name, func() error {
		if l.lock.holder == l {
			l.lock.holder = nil
		}
		return nil
	})
}
