package overview

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Books is Postgres; *pgstore.Store is.
type Books interface {
	// Summary returns an error that wraps sql.ErrNotMigrated where the tables aren't there.
	Summary(ctx context.Context) (pgstore.Summary, error)
}

// Heartbeats has a record of each instance; *redisqueue.Heartbeats is.
type Heartbeats interface {
	Put(ctx context.Context, id string, record []byte) (now time.Time, err error) // by its own clock
	Remove(ctx context.Context, id string) error
	List(ctx context.Context) (list []redisqueue.Heartbeat, now time.Time, err error)
}

// Remainder says what lies in a queue; *redisqueue.Queue does.
type Remainder interface {
	Remainder(ctx context.Context) (redisqueue.Remainder, error)
}

// Sources are what Collect looks at. Books must be set.
type Sources struct {
	Books      Books
	Queue      spend.Queue  // nil: none is used
	Locker     spend.Locker // of the flush locks; nil: locks aren't looked at
	Heartbeats Heartbeats   // nil: only this instance is known

	// Noted returns which books these are as far as that is known without Postgres, zero if it
	// isn't. nil: it never is.
	Noted func(ctx context.Context) spend.BooksID

	// Server asks Redis about itself. nil: it isn't asked.
	Server func(ctx context.Context) (redisqueue.Server, error)

	Unused Remainder // the queue of a Redis that is switched off; nil: there is none

	Shards        int           // as the instances have it
	QueueMaxBytes int64         // of each shard; 0: no bound
	IDWindow      time.Duration // for how long after its commit an id counts no second time

	self *record // nil: this is no instance
}

// record is the heartbeat of an instance. What newer versions add is ignored.
type record struct {
	Instance Instance        `json:"instance"`
	Holds    atMost[holding] `json:"holds"`
	Flushes  atMost[Flush]   `json:"flushes"`

	age time.Duration // since it was written
}

type holding struct {
	Shard int     `json:"shard"`
	For   float64 `json:"held_seconds"` // when the record was written
}

// Timeout is how long Collect waits for Postgres and Redis, each.
const Timeout = 2 * time.Second

// Collect looks at everything at once, for at most Timeout, and says how it stands. What doesn't
// answer is a problem in the report and not an error. Without Heartbeats, or with ones that don't
// answer, the report knows of no other instance.
func Collect(ctx context.Context, s Sources) Report {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	r := Report{
		AsOf: time.Now().UTC(), Instances: []Instance{}, Locks: []Lock{}, Flushes: []Flush{},
		Queue: Queue{Used: s.Queue != nil, Shards: []QueueShard{}}, IDs: IDs{Window: s.IDWindow.Seconds()},
	}
	var others []record
	clock := time.Now()
	var fromPostgres, noted spend.BooksID
	var shards []shardState
	var work sync.WaitGroup
	booksCtx, cancelBooks := context.WithTimeout(ctx, Timeout/2) // the rest is for Redis, which is asked by what Postgres tells
	work.Go(func() {
		if fromPostgres = r.readBooks(booksCtx, s.Books); !fromPostgres.IsZero() {
			cancelBooks() // no need to wait for the note, which a node of Redis may have that hangs
		}
	})
	if s.Noted != nil {
		work.Go(func() { noted = s.Noted(booksCtx) })
	}
	work.Wait()
	cancelBooks()
	id := cmp.Or(fromPostgres, noted)
	s = s.of(id)
	if s.Heartbeats != nil {
		work.Go(func() {
			var now time.Time
			if others, now, r.InstancesComplete = listed(ctx, s.Heartbeats); r.InstancesComplete {
				clock = now
			}
			r.InstancesComplete = r.InstancesComplete && (!id.IsZero() || s.Noted == nil)
		})
	}
	if s.Server != nil {
		work.Go(func() {
			server, err := s.Server(ctx)
			r.Queue.Replica = err == nil && server.IsReplica()
		})
	}
	switch {
	case s.Queue != nil:
		work.Go(func() { shards = readShards(ctx, &s) })
	case s.Unused != nil:
		work.Go(func() {
			left, err := s.Unused.Remainder(ctx)
			r.Queue.Left = left.Batches
			if err != nil {
				r.Queue.Error = err.Error()
			}
		})
	}
	work.Wait()
	r.takeShards(&s, shards, clock)
	r.take(others, s.self)
	r.Behind = r.Queue.Oldest
	for i := range r.Instances {
		if r.Instances[i].Alive {
			r.Behind = max(r.Behind, r.Instances[i].Behind)
		}
	}
	diagnose(&r)
	return r
}

// readBooks returns which books these are.
func (r *Report) readBooks(ctx context.Context, books Books) (id spend.BooksID) {
	g, err := books.Summary(ctx)
	r.Postgres.Up = err == nil || errors.Is(err, pgstore.ErrNotMigrated)
	if err != nil {
		r.Postgres.Error = err.Error()
		if !r.Postgres.Up {
			r.Postgres.Refusal = pgstore.Refusal(err)
		}
		return id
	}
	r.Postgres = Postgres{
		Up: true, Migrated: true, Version: g.Version, Connections: g.Connections, MaxConnections: g.MaxConnections,
		Updates: g.Updates, Amount: g.Amount, OldPrimary: g.OldPrimary,
	}
	r.IDs.Estimate, r.IDs.Bytes = g.IDs, g.IDBytes
	r.Quarantined, r.Conflicts, r.LostBatches = g.Quarantined, g.Conflicts, g.LostBatches
	if !g.LastLost.IsZero() {
		r.LastLost = g.LastLost.UTC()
	}
	if a := g.LastAudit; a != nil {
		r.LastAudit = &Audit{At: a.AsOf.UTC(), OK: a.OK, Took: a.Took.Seconds()}
	}
	return g.Books
}

// listed reads the heartbeats. Records that can't be read are left out. ok is false if there are
// none to be had.
func listed(ctx context.Context, heartbeats Heartbeats) (list []record, now time.Time, ok bool) {
	entries, now, err := heartbeats.List(ctx)
	if err != nil {
		return nil, now, false
	}
	for _, e := range entries {
		if one, ok := parseRecord(e.Record); ok {
			one.age = e.Age
			list = append(list, one)
		}
	}
	return list, now, true
}

// parseRecord reads what anybody may have written who can write to Redis. ok is false if it can't
// be a record. What it keeps is in proportion to the text.
func parseRecord(text []byte) (one record, ok bool) {
	if json.Unmarshal(text, &one) != nil {
		return record{}, false
	}
	isNone := func(shard int) bool { return shard < 0 || shard >= spend.MaxShards }
	shards := slices.DeleteFunc(one.Instance.HoldsShards, isNone)
	slices.Sort(shards)
	one.Instance.HoldsShards = slices.Clone(slices.Compact(shards)) // a copy, for shards may have room for many more
	return one, true
}

// atMost is a list of which no more elements are read than a record has.
type atMost[T any] []T

// mostListed is more than an instance tells of locks or flushes.
const mostListed = max(spend.MaxShards, maxFlushes)

// UnmarshalJSON reads the first elements. The rest is JSON, and is not looked at.
func (l *atMost[T]) UnmarshalJSON(text []byte) error {
	*l = nil
	d := json.NewDecoder(bytes.NewReader(text))
	switch start, err := d.Token(); {
	case err != nil || start == nil:
		return err // null
	case start != json.Delim('['):
		return errors.New("want a list")
	}
	for d.More() && len(*l) < mostListed {
		var one T
		if err := d.Decode(&one); err != nil {
			return err
		}
		*l = append(*l, one)
	}
	return nil
}

// shardState is what a shard's queue and lock are found like.
type shardState struct {
	stats  spend.QueueStats
	holder spend.Holder
	err    error
}

// readShards looks at the queue and the lock of all shards at once: in a cluster one node may hang,
// and the others answer.
func readShards(ctx context.Context, s *Sources) []shardState {
	shards := make([]shardState, s.Shards)
	var work sync.WaitGroup
	for shard := range shards {
		work.Go(func() {
			found := &shards[shard]
			found.stats, found.err = s.Queue.Stats(ctx, shard)
			if found.err == nil && s.Locker != nil {
				found.holder, found.err = s.Locker.Holder(ctx, fmt.Sprintf("flush/%d", shard))
			}
		})
	}
	work.Wait()
	return shards
}

// takeShards fills in what was found. clock is what Redis takes the time to be, as far as it is
// known.
func (r *Report) takeShards(s *Sources, shards []shardState, clock time.Time) {
	q := &r.Queue
	q.MaxBytes = s.QueueMaxBytes * int64(len(shards))
	for shard, found := range shards {
		one := QueueShard{Shard: shard, Batches: found.stats.Batches, Bytes: found.stats.Bytes}
		if err := found.err; err != nil {
			one = QueueShard{Shard: shard, Error: err.Error(), Refusal: refusal(err)}
			q.Error, q.Refusal = cmp.Or(q.Error, one.Error), cmp.Or(q.Refusal, one.Refusal)
			q.Shards = append(q.Shards, one)
			continue
		}
		if !found.stats.Oldest.IsZero() {
			one.Oldest = max(0, clock.Sub(found.stats.Oldest).Seconds())
		}
		q.Up = true
		q.Batches, q.Bytes, q.Oldest = q.Batches+one.Batches, q.Bytes+one.Bytes, max(q.Oldest, one.Oldest)
		q.Shards = append(q.Shards, one)
		if s.Locker != nil {
			r.Locks = append(r.Locks, Lock{Shard: shard, Holder: found.holder.Owner})
		}
	}
	if !q.Up {
		q.Shards = []QueueShard{} // what is wrong is wrong with all of Redis
	}
}

// refusal returns what Redis itself answered, or that it is a sentinel; "" if the error isn't an
// answer of it.
func refusal(err error) string {
	if errors.Is(err, redisqueue.ErrSentinel) {
		return redisqueue.ErrSentinel.Error()
	}
	var said redis.Error
	if errors.As(err, &said) {
		return said.Error()
	}
	return ""
}

// take fills in the heartbeats. self goes before the heartbeat of this instance.
func (r *Report) take(others []record, self *record) {
	var all []record
	if self != nil {
		all = append(all, *self)
	}
	for _, one := range others {
		if self == nil || one.Instance.Producer != self.Instance.Producer {
			all = append(all, one)
		}
	}
	for i := range all {
		in := &all[i].Instance
		in.Self = self != nil && i == 0
		in.Alive = in.Self || all[i].age < AliveFor
		in.SeenAt = r.AsOf.Add(-all[i].age)
		if in.HoldsShards == nil {
			in.HoldsShards = []int{}
		}
	}
	all = slices.DeleteFunc(all, func(one record) bool { return succeeded(&one.Instance, all) })
	for i := range all {
		r.Instances = append(r.Instances, all[i].Instance)
		r.Flushes = append(r.Flushes, all[i].Flushes...)
		r.takeHoldings(&all[i])
	}
	slices.SortStableFunc(r.Instances, func(a, b Instance) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), a.StartedAt.Compare(b.StartedAt))
	})
	slices.SortStableFunc(r.Flushes, func(a, b Flush) int { return b.At.Compare(a.At) })
	r.Flushes = r.Flushes[:min(len(r.Flushes), maxFlushes)]
}

// succeeded says whether the instance is gone and another run of the same name has taken its place.
func succeeded(in *Instance, all []record) bool {
	return !in.Alive && slices.ContainsFunc(all, func(other record) bool {
		return other.Instance.Alive && other.Instance.Instance == in.Instance && other.Instance.StartedAt.After(in.StartedAt)
	})
}

// takeHoldings adds to the locks for how long they have been held, where their holder says so.
func (r *Report) takeHoldings(one *record) {
	for _, h := range one.Holds {
		for i := range r.Locks {
			if lock := &r.Locks[i]; lock.Shard == h.Shard && lock.Holder == one.Instance.Instance {
				held := h.For + one.age.Seconds()
				lock.Held = &held
			}
		}
	}
}
