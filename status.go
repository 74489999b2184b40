package spendflush

import (
	"cmp"
	"sort"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// PipelineStatus is a snapshot of one instance. Its times are in UTC.
type PipelineStatus struct {
	Instance string        `json:"instance"`
	Producer string        `json:"producer"`
	Books    spend.BooksID `json:"books,omitzero"` // that it works for; zero while they are unknown
	Started  time.Time     `json:"started"`
	Accepted int64         `json:"accepted_updates"` // since the start
	Open     OpenStatus    `json:"open"`
	Shards   []ShardStatus `json:"shards"`

	// OldestHeld: what isn't known to be in Postgres was accepted after it, and the oldest of that
	// at most SealInterval later. Zero if nothing is held.
	OldestHeld time.Time `json:"oldest_held,omitzero"`

	// BooksTrouble says that another database uses the queue under the same books' id, or that
	// batches of other books are held. "" otherwise.
	BooksTrouble string `json:"books_trouble,omitempty"`

	TwoDatabases bool `json:"two_databases,omitempty"` // the former

	Flushes []FlushStatus `json:"recent_flushes,omitempty"` // by this instance, newest first, at most 20
}

// FlushStatus is a flush that was committed. Its rows, updates and amount are those of its batches,
// repeats included, which it hasn't counted again.
type FlushStatus struct {
	At      time.Time    `json:"at"` // when the commit was answered
	Shard   int          `json:"shard"`
	Path    string       `json:"path"` // queue or direct
	Batches int          `json:"batches"`
	Rows    int          `json:"rows"`
	Updates int64        `json:"updates"`
	Amount  spend.Amount `json:"amount"`
	Seconds float64      `json:"duration_seconds"` // of the transaction, tries included
	Behind  float64      `json:"behind_seconds"`   // age of its oldest batch, since that was sealed, at the commit
}

func flushStatus(f *spend.Flush, taken []entryBatch, path string, start, end time.Time) FlushStatus {
	s := FlushStatus{
		At: end.UTC(), Shard: f.Shard, Path: path, Batches: f.Batches(), Rows: len(f.Totals) + len(f.Rollups),
		Updates: f.Control.Rollups.APIRequests(), Amount: f.Control.Rollups.Spend, Seconds: end.Sub(start).Seconds(),
	}
	for _, b := range taken {
		s.Behind = max(s.Behind, end.Sub(b.SealedAt).Seconds()) // 0 where another machine's clock is ahead
	}
	return s
}

// recentFlushes are the last flushes of a process.
type recentFlushes struct {
	mu   sync.Mutex // nothing slow runs under it
	ring [20]FlushStatus
	n    int // flushes added so far
}

func (r *recentFlushes) add(s FlushStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[r.n%len(r.ring)] = s
	r.n++
}

func (r *recentFlushes) newestFirst() (list []FlushStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := r.n - 1; i >= max(0, r.n-len(r.ring)); i-- {
		list = append(list, r.ring[i%len(r.ring)])
	}
	return list
}

// OpenStatus is what is in the open map.
type OpenStatus struct {
	Keys    int64        `json:"keys"`
	MaxKeys int64        `json:"max_keys"`
	Updates int64        `json:"updates"`
	Amount  spend.Amount `json:"amount"`
}

// ShardStatus is where one shard of an instance stands.
type ShardStatus struct {
	Shard       int          `json:"shard"`
	Unconfirmed int          `json:"unconfirmed_batches"`
	Unqueued    int          `json:"unqueued_batches"`
	Updates     int64        `json:"unconfirmed_updates"`
	Amount      spend.Amount `json:"unconfirmed_amount"`
	Bytes       int          `json:"unconfirmed_bytes"`
	Oldest      time.Time    `json:"oldest_unconfirmed,omitzero"` // when it was sealed
	Confirmed   uint64       `json:"confirmed_sequence"`
	Sealed      uint64       `json:"sealed_sequence"`
	Fallback    bool         `json:"fallback"`

	Retained       int  `json:"kept_batches"` // committed ones, kept in case Postgres is turned back
	RetainedBytes  int  `json:"kept_bytes"`
	JournalFailing bool `json:"journal_failing"`

	// Denied is the error of the last push, flush or direct write, if it wraps ErrDenied; else "".
	Denied string `json:"denied,omitempty"`

	HoldsLock bool      `json:"holds_lock"`
	HeldSince time.Time `json:"held_since,omitzero"`

	acceptedSince                   time.Time // the updates of unconfirmed batches were accepted after it; zero if there are none
	unqueuedTotals, unqueuedRollups int
}

// Denied returns what Redis or Postgres refuses this instance for lack of rights, "" if nothing.
func (s *PipelineStatus) Denied() string {
	for i := range s.Shards {
		if s.Shards[i].Denied != "" {
			return s.Shards[i].Denied
		}
	}
	return ""
}

// Status returns how this instance stands. It does no I/O. What is being sealed just now is
// reported as open.
func (p *Pipeline) Status() PipelineStatus {
	p.moving.Lock()
	defer p.moving.Unlock()
	since, between := time.Unix(0, p.openSince.Load()).UTC(), p.between
	open := p.open.sums()
	s := PipelineStatus{
		Instance: p.cfg.Instance, Producer: p.producer.String(), Started: p.started.UTC(), Accepted: open.accepted,
		Open: OpenStatus{
			Keys: open.keys, MaxKeys: p.open.maxKeys, Updates: open.updates + between.updates, Amount: open.amount.Add(between.amount),
		},
		Flushes: p.recent.newestFirst(), Books: p.books.id(),
	}

	s.BooksTrouble, s.TwoDatabases = p.books.trouble()
	switch {
	case between.updates > 0:
		s.OldestHeld = between.since.UTC()
	case open.updates > 0:
		s.OldestHeld = since
	}

	for i, r := range p.relays {
		shard := r.status()
		if i < len(p.flushers) {
			shard.HeldSince, shard.HoldsLock = p.flushers[i].holds()
			shard.HeldSince = shard.HeldSince.UTC()
			if denied := p.flushers[i].denied.Load(); denied != nil {
				shard.Denied = cmp.Or(shard.Denied, denied.text)
			}
		}
		if held := shard.acceptedSince; !held.IsZero() && (s.OldestHeld.IsZero() || held.Before(s.OldestHeld)) {
			s.OldestHeld = held.UTC()
		}
		s.Shards = append(s.Shards, shard)
	}

	return s
}

func (r *relay) status() ShardStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.outbox
	s := ShardStatus{
		Shard: r.shard, Unconfirmed: len(o.batches), Bytes: o.bytes(), Oldest: o.oldest().UTC(), Confirmed: o.confirmed,
		Sealed: o.next - 1, Fallback: r.leavesQueue(), Retained: len(o.retained), RetainedBytes: sizeOf(o.retained), JournalFailing: r.journalFailing,
		Denied: r.denied(),
	}
	if len(o.batches) > 0 {
		s.acceptedSince = o.batches[0].since
	}
	for _, b := range o.batches {
		s.Updates += b.Updates
		s.Amount = s.Amount.Add(b.Amount)
		if !b.queued || b.inDoubt {
			s.Unqueued++
			s.unqueuedTotals += b.Totals
			s.unqueuedRollups += b.Rollups
		}
	}
	return s
}

// Held is what an instance held of one entity at one moment: the sums of batches not confirmed, and
// of the open map.
type Held struct {
	parts []heldPart
	of    []spend.ProducerID
}

// heldPart is what came to the books with one batch, or will come with the next one.
type heldPart struct {
	shard    int
	sequence uint64
	counters spend.Counters
}

// Producers returns the identities of the instance whose marks NotIn wants, one for each shard from
// 0.
func (h Held) Producers() []spend.ProducerID { return h.of }

// NotIn adds up what the marks don't cover: they say, for each shard, how far Producers are in the
// books. With marks and the entity's total read in one snapshot of the database after Held was
// called, total and NotIn together are what was accepted, each update once.
func (h Held) NotIn(marks map[int]spend.Mark) (sum spend.Counters) {
	for i := range h.parts {
		if p := &h.parts[i]; !marks[p.shard].Has(p.sequence) {
			sum.Add(&p.counters)
		}
	}
	return sum
}

// Held returns what this instance holds of the entity. It does no I/O, but walks over all open keys
// and decodes the unconfirmed batches of all shards.
func (p *Pipeline) Held(e spend.Entity) Held {
	p.sealing.Lock()
	defer p.sealing.Unlock()
	key := e.Key()
	h := Held{}
	open := p.open.entity(e, len(p.relays))
	for shard, r := range p.relays {
		producer, batches, next := r.unconfirmed()
		h.of = append(h.of, producer)
		h.parts = append(h.parts, heldPart{shard, next, open[shard]})
		for _, b := range batches {
			rows, err := b.RowsKnowing(spend.OwnKeys)
			if err != nil {
				continue // can't be: this process made the bytes
			}
			i := sort.Search(len(rows.Totals), func(i int) bool { return rows.Totals[i].Key.Compare(key) >= 0 })
			if i < len(rows.Totals) && rows.Totals[i].Key == key {
				h.parts = append(h.parts, heldPart{shard, b.Sequence, rows.Totals[i].Counters})
			}
		}
	}
	return h
}

// identities returns under which identity each shard is sealed.
func (p *Pipeline) identities() (ids []spend.ProducerID) {
	for _, r := range p.relays {
		producer, _, _ := r.unconfirmed()
		ids = append(ids, producer)
	}
	return ids
}

// unconfirmed returns the identity of the relay, its batches that aren't known to be in Postgres,
// and the sequence that the next one gets.
func (r *relay) unconfirmed() (producer spend.ProducerID, batches []*spend.Batch, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.outbox.batches {
		batches = append(batches, b.Batch)
	}
	return r.outbox.producer, batches, r.outbox.next
}
