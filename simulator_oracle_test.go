package spendflush

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// simRun is a producer, living or dead, and all that it ever sealed.
type simRun struct {
	number  int
	id      ProducerID
	slot    int
	in      *simInstance // nil once it has died
	batches []*simSealed
	mark    uint64 // the last one claimed
	queued  uint64 // when it died: batches up to here it had reported as queued
}

// simSealed is a batch, and what the simulator knows of it.
type simSealed struct {
	*Batch
	rows *Rows

	// frail: it may be missing once its producer is dead, because the queue was made to lose it.
	// torn: so does a Postgres that was turned back while a flush was under way. Pushing it again doesn't help.
	// gone: it may be missing in any case, because Postgres was turned back beyond what is kept.
	frail, torn, gone bool
}

// simKeys are the entities and series that all batches are of.
var simKeys = func() (rows [3]Rows) {
	for i := range rows {
		s := Series{APIKey: fmt.Sprint("key", i)}
		e := Entity{Type: APIKey, ID: s.APIKey}
		rows[i] = Rows{Totals: []TotalRow{{Key: e.Key(), Entity: e}}, Rollups: []RollupRow{NewRollupRow(&s, 0, Counters{})}}
	}
	return rows
}()

// newRun makes the producer of a process that begins.
func (s *simulator) newRun(slot int) *simRun {
	run := &simRun{number: len(s.runs), slot: slot}
	ms := s.now.UnixMilli()
	binary.BigEndian.PutUint16(run.id[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(run.id[2:], uint32(ms))
	run.id[15] = byte(run.number)
	run.id[14] = byte(run.number >> 8)
	s.runs = append(s.runs, run)
	s.byID[run.id] = run
	return run
}

// newBatch seals the next batch. What is in it depends on the seed and its name alone.
func (s *simulator) newBatch(run *simRun, w *window) *Batch {
	x := s.seed*0x9e3779b97f4a7c15 + uint64(run.number)<<32 + w.next
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	key := simKeys[x%uint64(len(simKeys))]
	rows := &Rows{Totals: slices.Clone(key.Totals), Rollups: slices.Clone(key.Rollups)}
	c := Counters{Spend: Picodollars(1 + int64(x>>8&0xffffffff)), SuccessfulRequests: 1 + int64(x>>40&1), FailedRequests: int64(x >> 41 & 1)}
	rows.Totals[0].Counters, rows.Rollups[0].Counters = c, c
	h := Header{
		Shards: 1, Producer: run.id, Sequence: w.next, Seal: w.next, SealedAt: s.now, PriorUpdates: w.updates, PriorAmount: w.amount,
	}
	b := NewBatch(h, rows.Totals, rows.Rollups)
	run.batches = append(run.batches, &simSealed{Batch: b, rows: rows})
	return b
}

// has says whether a batch is in the books.
func (s *simulator) has(run *simRun, sequence uint64) bool {
	mark, folded := s.store.state.marks[0][run.id], s.store.state.folded[0][run.id]
	return mark.Has(sequence) || folded.Has(sequence)
}

func (s *simulator) isQuarantined(b *Batch) bool {
	_, ok := s.store.quarantine[string(b.bytes)]
	return ok
}

// isKnown says whether Postgres has a batch, in the books or in quarantine.
func (s *simulator) isKnown(b *simSealed) bool {
	return s.has(s.byID[b.Producer], b.Sequence) || s.isQuarantined(b.Batch)
}

// sealed returns the batch that these bytes are, nil if they aren't one any more.
func (s *simulator) sealed(bytes []byte) *simSealed {
	b, err := ParseBatch(bytes)
	if err != nil {
		return nil
	}
	return s.byID[b.Producer].batches[b.Sequence-1]
}

// pushed notes that an entry with the batch is in the queue.
func (s *simulator) pushed(b *Batch) {
	if sealed := s.byID[b.Producer].batches[b.Sequence-1]; sealed.frail && s.isQueued(sealed) {
		sealed.frail = false
	}
}

// applied sees that a flush which was committed claims what was sealed, and that the books are what the marks say.
func (s *simulator) applied(f *Flush) {
	s.tally.passed += len(f.Lost)
	s.tally.found += len(f.Found)
	for _, c := range f.Claims {
		run := s.byID[c.Producer]
		if c.Last <= run.mark {
			s.fail("mark of producer %d moves back from %d to %d", run.number, run.mark, c.Last)
		}
		run.mark = c.Last
		var updates, sealed int64
		var amount, sealedAmount Amount
		for _, b := range run.batches[:c.Last] {
			sealed, sealedAmount = sealed+b.Updates, sealedAmount.Add(b.Amount)
			if b.Sequence >= c.First && !slices.ContainsFunc(f.Lost, func(l LostBatch) bool { return l.Producer == c.Producer && l.Sequence == b.Sequence }) {
				updates, amount = updates+b.Updates, amount.Add(b.Amount)
			}
		}
		if c.Updates != updates || c.Amount != amount || c.SealedUpdates != sealed || c.SealedAmount != sealedAmount {
			s.fail("claim %+v: these batches have %d updates of %s, up to the last %d of %s", c, updates, amount, sealed, sealedAmount)
		}
	}
	for _, b := range f.Found {
		if sealed := s.byID[b.Producer].batches[b.Sequence-1]; sealed.Updates != b.Updates || sealed.Amount != b.Amount {
			s.fail("found %+v: it has %d updates of %s", b, sealed.Updates, sealed.Amount)
		}
	}
	s.lookAtSums()
}

// lookAtSums sees that the books are the sum of what the marks say, and that what a mark says is the sum of its batches.
func (s *simulator) lookAtSums() {
	var updates int64
	var amount Amount
	for _, marks := range []map[ProducerID]memoryMark{s.store.state.marks[0], s.store.state.folded[0]} {
		for id, mark := range marks {
			updates, amount = updates+mark.booked, amount.Add(mark.bookedAmount)
			if mark.Sequence > uint64(len(s.byID[id].batches)) {
				s.fail("mark of producer %d is at %d, sealed are %d", s.byID[id].number, mark.Sequence, len(s.byID[id].batches))
			}
		}
	}
	if books := s.store.state.books; books.updates != updates || books.amount != amount {
		s.fail("books have %d updates of %s, the marks say %d of %s", books.updates, books.amount, updates, amount)
	}
}

// lookAtSettled sees that nothing is taken out of the queue that is neither in the books nor in quarantine.
func (s *simulator) lookAtSettled(ids []EntryID) {
	for _, e := range s.queue.entries[0] {
		if !slices.Contains(ids, e.ID) {
			continue
		}
		b := s.sealed(e.Bytes)
		if b == nil {
			b = s.spoiled[e.ID] // it may have been read before, and Postgres forgets what is in quarantine too
			if s.tally.restores > 0 {
				continue
			}
		}
		_, quarantined := s.store.quarantine[string(e.Bytes)]
		if quarantined || b != nil && (b.torn || b.gone || s.isKnown(b)) {
			continue
		}
		s.fail("entry %s is settled, and is neither in the books nor in quarantine", e.ID)
	}
}

// verdict compares the books with everything that the simulator knows, to the last batch. Everything is at rest.
func (s *simulator) verdict() string {
	if s.lookAtSums(); s.wrong != "" {
		return s.wrong
	}
	want := newBooks()
	for _, run := range s.runs {
		if fault := s.judge(run, want); fault != "" {
			return fmt.Sprintf("producer %d (living: %t, queued up to %d): %s", run.number, run.in != nil, run.queued, fault)
		}
	}
	if diff := s.store.diff(want); diff != "" {
		return diff + " by the marks"
	}
	s.tally.schedules++
	s.tally.calls += s.calls
	s.tally.flushes += s.store.flushes
	s.tally.quarantined += len(s.store.quarantine)
	return ""
}

// judge adds what is in the books of a producer to want, and says what should be there and isn't, or the other way round.
func (s *simulator) judge(run *simRun, want *books) string {
	mark, known := s.store.state.marks[0][run.id]
	folded := s.store.state.folded[0][run.id]
	lost, lostAmount := mark.Updates-mark.booked+folded.Updates-folded.booked, mark.Amount.Sub(mark.bookedAmount).Add(folded.Amount.Sub(folded.bookedAmount))
	for _, b := range run.batches {
		if mark.Has(b.Sequence) && folded.Has(b.Sequence) {
			return fmt.Sprintf("batch %d is in the books twice", b.Sequence)
		}
		if s.has(run, b.Sequence) {
			want.apply(b.rows.Totals, b.rows.Rollups)
			continue
		}
		if b.Sequence <= max(mark.Sequence, folded.Sequence) {
			lost, lostAmount = lost-b.Updates, lostAmount.Sub(b.Amount)
		}
		switch forgotten := !known && run.id.Born().Before(s.store.state.horizon); {
		case b.gone:
			s.tally.gone++
		case (forgotten || run.in == nil) && s.isQuarantined(b.Batch):
		case run.in == nil && (b.frail || b.torn):
			s.tally.frail++
		case run.in == nil && b.Sequence > run.queued:
		default:
			return fmt.Sprintf("batch %d is missing (forgotten: %t), its mark is %+v", b.Sequence, forgotten, mark.Mark)
		}
	}
	if lost != 0 || lostAmount != (Amount{}) {
		return fmt.Sprintf("the books say that %d updates of %s more are lost than are missing", lost, lostAmount)
	}
	return ""
}

// describe says in short what a flush does.
func (s *simulator) describe(f *Flush) string {
	var all []string
	for _, c := range f.Claims {
		all = append(all, fmt.Sprintf("%d:%d-%d", s.byID[c.Producer].number, c.First, c.Last))
	}
	for _, l := range f.Lost {
		all = append(all, fmt.Sprintf("%d:%d lost", s.byID[l.Producer].number, l.Sequence))
	}
	for _, b := range f.Found {
		all = append(all, fmt.Sprintf("%d:%d found", s.byID[b.Producer].number, b.Sequence))
	}
	return strings.Join(all, ", ")
}
