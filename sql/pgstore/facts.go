package pgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spendflush/spendflush/spend"
)

// factParts is how many tables ids lie in.
const factParts = 6

// What is said under an id lies above the minute of the part in which it was committed.
const minuteBits = 16

// errTurned is wrapped where another flush has decided by ids of the same buckets since this one
// has read them. The transaction was rolled back.
var errTurned = errors.New("another flush of these buckets was faster")

// factTries is how often a flush decides before its transaction. Then it does so inside, and holds
// off all others.
const factTries = 3

// factLook is what is read of the ids of a flush, and what it comes to by that.
type factLook struct {
	flush    *spend.Flush
	ids      []spend.FactID
	known    []spend.KnownFact
	turns    [spend.Buckets]int64
	part     int64
	decision *spend.Decision

	moved, same int64 // turns
}

// tryFacts is one try to commit a flush with facts. It decides before the transaction which of them
// count, and again if another flush was faster.
func (s *Store) tryFacts(ctx context.Context, f *spend.Flush, isolating bool) error {
	ids := f.FactIDs()
	for turned := 0; ; turned++ {
		look := &factLook{flush: f, ids: ids}
		err := s.tryDecided(ctx, look, isolating, turned == factTries)
		if errors.Is(err, errTurned) {
			s.stats.turned.Add(1)
			continue
		}
		if err == nil {
			s.noteFacts(f, look.decision)
		}
		return err
	}
}

func (s *Store) noteFacts(f *spend.Flush, d *spend.Decision) {
	s.stats.newFacts.Add(int64(len(d.New)))
	s.stats.repeats.Add(d.Duplicates.APIRequests())
	s.stats.conflicts.Add(d.Conflicts.APIRequests())
	if f.Outcome != nil {
		*f.Outcome = d.Taken
	}
}

// tryDecided decides, before the transaction or inside, and tries to commit what the flush comes
// to. The error wraps errTurned only if that was before.
func (s *Store) tryDecided(ctx context.Context, look *factLook, isolating, inside bool) error {
	e, rowsOf := s.encoders.Get().(*encoder), s.encoders.Get().(*encoder)
	defer s.putEncoder(e)
	defer s.putEncoder(rowsOf)

	tx := &transaction{store: s}
	return tx.on(ctx, func() error {
		if err := tx.decide(ctx, look, inside); err != nil {
			return err
		}
		f := look.decision.Flush
		encoded := encodeFlush(e, f, look.decision, 1)
		encoded.facts = look.writeCalls()
		var rows []call
		if !isolating {
			rows = tx.prepare(rowsOf, f)
		}

		var begin []call
		if !inside {
			begin, encoded.look = tx.beginCalls(), look
		}
		return tx.book(ctx, begin, f, encoded, rows)
	})
}

// decide reads what the books have of the ids, in a transaction of its own or, inside, in one that
// it begins for the flush.
func (t *transaction) decide(ctx context.Context, look *factLook, inside bool) error {
	if inside {
		if err := t.begin(ctx); err != nil {
			return err
		}
		return t.decideInside(ctx, look)
	}
	calls := append([]call{{name: "begin_read", rows: -1}, {name: "settings_read", rows: -1}}, look.readCalls()...)
	if err := t.run(ctx, append(calls, call{name: "commit", rows: -1})...); err != nil {
		return fmt.Errorf("look for ids: %w", err)
	}
	return look.decide()
}

// decideInside decides in a transaction that has begun. It holds off every other flush of these
// buckets, and moves their turns.
func (t *transaction) decideInside(ctx context.Context, look *factLook) error {
	calls := append([]call{holdTurns(look.flush.FactBuckets())}, look.readCalls()...)
	if err := t.run(ctx, calls...); err != nil {
		return fmt.Errorf("look for ids: %w", err)
	}
	if err := look.decide(); err != nil {
		return err
	}
	if err := t.run(ctx, look.turnCalls()...); err != nil {
		return err
	}
	return look.checkTurns()
}

func (l *factLook) decide() (err error) {
	l.decision, err = l.flush.Decide(l.known)
	return err
}

// readCalls reads the turns, and then what the books have: what commits in between has moved a
// turn.
func (l *factLook) readCalls() []call {
	var e encoder
	encodeHalves(&e, len(l.ids), func(i int) spend.FactID { return l.ids[i] })
	return []call{
		{name: "fact_by_index", rows: -1},
		{name: "fact_turns", rows: 1, result: l.readTurns},
		{name: "fact_find", rows: -1, params: e.params(), result: l.readKnown},
	}
}

// halves returns an id as the two numbers that it is kept as.
func halves(id spend.FactID) (high, low int64) {
	return int64(binary.BigEndian.Uint64(id[:8])), int64(binary.BigEndian.Uint64(id[8:]))
}

// encodeHalves encodes ids as two arrays of numbers.
func encodeHalves(e *encoder, n int, at func(int) spend.FactID) {
	e.int8s(n, func(i int) int64 { high, _ := halves(at(i)); return high })
	e.int8s(n, func(i int) int64 { _, low := halves(at(i)); return low })
}

func (l *factLook) readTurns(rows [][][]byte) (err error) {
	turns := strings.Split(string(rows[0][1]), ",")
	if len(turns) != len(l.turns) {
		return fmt.Errorf("%d turns; there must be %d", len(turns), len(l.turns))
	}
	for i := range turns {
		if l.turns[i], err = strconv.ParseInt(turns[i], 10, 64); err != nil {
			return fmt.Errorf("turn of bucket %d: %w", i, err)
		}
	}
	if l.part, err = strconv.ParseInt(string(rows[0][0]), 10, 64); err != nil {
		return fmt.Errorf("no part takes ids: %w", err)
	}
	return nil
}

func (l *factLook) readKnown(rows [][][]byte) error {
	l.known = make([]spend.KnownFact, len(rows))
	for i, row := range rows {
		var n [3]int64
		for j := range n {
			var err error
			if n[j], err = strconv.ParseInt(string(row[j]), 10, 64); err != nil {
				return fmt.Errorf("an id that is known: %w", err)
			}
		}
		l.known[i] = spend.KnownFact{ID: l.ids[n[0]-1], Content: spend.Fingerprint(uint64(n[1]) >> minuteBits), Buckets: uint64(n[2])}
	}
	return nil
}

// bucketsIn returns the buckets of a mask.
func bucketsIn(mask uint64) (list []int16) {
	for i := range int16(spend.Buckets) {
		if mask&(1<<i) != 0 {
			list = append(list, i)
		}
	}
	return list
}

func holdTurns(mask uint64) call {
	var e encoder
	list := bucketsIn(mask)
	e.int2s(len(list), func(i int) int16 { return list[i] })
	return call{name: "fact_hold", rows: -1, params: e.params()}
}

// turnCalls moves the turns of the buckets that new ids count in, and looks whether the others are
// as they were read. The latter is for a pooler that leads to another server by now: what is a
// repeat on the one may be unknown on the other.
func (l *factLook) turnCalls() (calls []call) {
	turns := func(name string, mask uint64, answer *int64) call {
		var e encoder
		list := bucketsIn(mask)
		e.int2s(len(list), func(i int) int16 { return list[i] })
		e.int8s(len(list), func(i int) int64 { return l.turns[list[i]] })
		return call{name: name, rows: -1, params: e.params(), answer: answer}
	}
	l.moved, l.same = 0, 0
	if fresh := l.decision.Buckets; fresh != 0 {
		calls = append(calls, holdTurns(fresh), turns("fact_move", fresh, &l.moved))
	}
	if others := l.decision.Seen &^ l.decision.Buckets; others != 0 {
		calls = append(calls, turns("fact_same", others, &l.same))
	}
	return calls
}

// checkTurns says whether the turns were as they had been read. The error wraps errTurned.
func (l *factLook) checkTurns() error {
	if want := len(bucketsIn(l.decision.Seen | l.decision.Buckets)); l.moved+l.same != int64(want) {
		return fmt.Errorf("%d of %d turns are as they were: %w", l.moved+l.same, want, errTurned)
	}
	return nil
}

// writeCalls keeps the ids that count, and what was taken out.
func (l *factLook) writeCalls() (calls []call) {
	d, f := l.decision, l.decision.Flush
	if n := len(d.New); n > 0 {
		var e encoder
		encodeHalves(&e, n, func(i int) spend.FactID { return d.New[i].ID })
		e.int8s(n, func(i int) int64 { return int64(uint64(d.New[i].Content) << minuteBits) })
		e.int8s(n, func(i int) int64 { return int64(d.New[i].Buckets) })
		calls = append(calls, call{name: fmt.Sprintf("fact_add_%d", l.part), rows: n, params: e.params()})
	}
	if len(d.Taken) == 0 {
		return calls
	}

	if taken := takenOf(f); len(taken) > 0 {
		var e encoder
		encodeTaken(&e, f.Shard, taken)
		calls = append(calls, call{name: "fact_taken", rows: len(taken), params: e.params()})
	}
	var e encoder
	e.int2(int16(f.Shard))
	e.keys(len(d.Taken), func(i int) *[16]byte { return (*[16]byte)(&d.Taken[i].Producer) })
	e.int8s(len(d.Taken), func(i int) int64 { return int64(d.Taken[i].Sequence) })
	e.byteas(len(d.Taken), func(i int) []byte { return spend.AppendTaken(nil, d.Taken[i].Ranges) })
	calls = append(calls, call{name: "fact_outcome", rows: len(d.Taken), params: e.params()})
	if len(d.Aside) > 0 {
		calls = append(calls, conflictCall(f.Shard, d.Aside))
	}
	return calls
}

// producerTaken is what was taken out of the batches of a producer.
type producerTaken struct {
	producer              spend.ProducerID
	duplicates, conflicts spend.FactSum
}

// takenOf returns what was taken out of the claims and the batches found, each producer once.
func takenOf(f *spend.Flush) (list []producerTaken) {
	add := func(id spend.ProducerID, duplicates, conflicts spend.FactSum) {
		if duplicates == (spend.FactSum{}) && conflicts == (spend.FactSum{}) {
			return
		}
		for i := range list {
			if t := &list[i]; t.producer == id {
				t.duplicates, t.conflicts = t.duplicates.Plus(duplicates), t.conflicts.Plus(conflicts)
				return
			}
		}
		list = append(list, producerTaken{id, duplicates, conflicts})
	}
	for i := range f.Claims {
		add(f.Claims[i].Producer, f.Claims[i].Duplicates, f.Claims[i].Conflicts)
	}
	for i := range f.Found {
		add(f.Found[i].Producer, f.Found[i].Duplicates, f.Found[i].Conflicts)
	}
	return list
}

func encodeTaken(e *encoder, shard int, list []producerTaken) {
	n := len(list)
	e.int2(int16(shard))
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&list[i].producer) })
	e.int8s(n, func(i int) int64 { return list[i].duplicates.Updates })
	e.amounts(n, func(i int) spend.Amount { return list[i].duplicates.Amount })
	e.int8s(n, func(i int) int64 { return list[i].conflicts.Updates })
	e.amounts(n, func(i int) spend.Amount { return list[i].conflicts.Amount })
}

func conflictCall(shard int, list []spend.ConflictBatch) call {
	n := len(list)
	var e encoder
	e.int2(int16(shard))
	e.texts(n, func(i int) string {
		return fmt.Sprintf("another content was booked before under the ids of these %d updates", list[i].Batch.Updates)
	})
	e.byteas(n, func(i int) []byte { return list[i].Batch.Bytes() })
	e.keys(n, func(i int) *[16]byte { return (*[16]byte)(&list[i].Batch.Producer) })
	e.int8s(n, func(i int) int64 { return int64(list[i].Batch.Sequence) })
	e.int8s(n, func(i int) int64 { return list[i].Batch.Updates })
	e.counters(n, func(i int) *spend.Counters { return &list[i].Counters })
	return call{name: "fact_conflict", rows: n, params: e.params()}
}
