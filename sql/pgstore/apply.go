package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// Apply implements spend.Store. It blocks for as long as the transaction and its repetitions last;
// ctx bounds that. Besides ErrFenced the error may wrap ErrRefused: the flush can't be written as
// it is.
//
// A row that Postgres refuses (a sum out of range, a text that isn't valid) is put into quarantine
// in the same transaction, and the rest commits.
func (s *Store) Apply(ctx context.Context, f *spend.Flush) error {
	if err := s.checkFlush(f); err != nil {
		return applyError(f, err)
	}
	attempt := s.tryFacts
	if len(f.Facts) == 0 {
		e := s.encoders.Get().(*encoder)
		defer s.putEncoder(e)
		encoded := encodeFlush(e, f, nil, 1)
		attempt = func(ctx context.Context, f *spend.Flush, isolating bool) error {
			return s.try(ctx, f, encoded, isolating)
		}
	}

	isolating := false
	for try := 1; ; try++ {
		err := attempt(ctx, f, isolating)
		if err == nil {
			s.stats.commits.Add(1)
			return nil
		}
		if sqlState(err) == codeDeadlock {
			s.stats.deadlocks.Add(1)
		}
		if errors.Is(err, spend.ErrFenced) {
			s.stats.fenced.Add(1)
			return applyError(f, err)
		}
		if errors.Is(err, errUnknown) {
			return applyError(f, err)
		}
		todo := classify(ctx, err)
		if todo == isolate && isolating {
			if !isOfOthers(sqlState(err)) { // else nothing says that it was a row
				err = fmt.Errorf("%w: %w", ErrRefused, err)
			}
			return applyError(f, err)
		}
		if todo == giveUp || try == maxTries {
			return applyError(f, err)
		}
		if todo == relearn {
			s.known.evictAll()
			s.days.evictAll()
			s.stats.relearned.Add(1)
		}
		isolating = isolating || todo == isolate
		s.stats.retries.Add(1)
		if todo == retry && !pause(ctx, try) {
			return applyError(f, err)
		}
	}
}

func applyError(f *spend.Flush, err error) error {
	return fmt.Errorf("apply to shard %d: %w", f.Shard, denied(err))
}

// pause waits before the next try, longer at each, and says whether ctx still goes on. The jitter
// parts transactions that met once.
func pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(firstPause<<(try-1)/2 + rand.N(firstPause<<(try-1)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// checkFlush looks at what the statements rely on.
func (s *Store) checkFlush(f *spend.Flush) error {
	if f.Shard < 0 || f.Shard >= spend.MaxShards {
		return fmt.Errorf("%w: shard %d; allowed are 0 to %d", ErrRefused, f.Shard, spend.MaxShards-1)
	}
	if len(f.Claims)+len(f.Found) == 0 {
		return fmt.Errorf("%w: a flush without a claim", ErrRefused)
	}
	for i := range f.Lost {
		if l := &f.Lost[i]; l.First < 1 || l.First > l.Last || int64(l.Last) < 0 || l.Quarantined && l.First < l.Last {
			return fmt.Errorf("%w: producer %s loses %d to %d", ErrRefused, l.Producer, l.First, l.Last)
		}
	}
	for i := range f.Claims {
		c := &f.Claims[i]
		if c.First < 1 || c.First > c.Last || int64(c.Last) < 0 {
			return fmt.Errorf("%w: producer %s claims %d to %d", ErrRefused, c.Producer, c.First, c.Last)
		}
	}
	if s.anyOrder {
		return nil
	}
	for i := 1; i < len(f.Claims); i++ {
		if f.Claims[i-1].Producer.Compare(f.Claims[i].Producer) >= 0 {
			return fmt.Errorf("%w: claim %d is out of order", ErrRefused, i)
		}
	}
	for i := 1; i < len(f.Totals); i++ {
		if f.Totals[i-1].Key.Compare(f.Totals[i].Key) >= 0 {
			return fmt.Errorf("%w: total %d is out of order", ErrRefused, i)
		}
	}
	for i := 1; i < len(f.Rollups); i++ {
		a, b := &f.Rollups[i-1], &f.Rollups[i]
		if a.Hour > b.Hour || a.Hour == b.Hour && a.Key.Compare(b.Key) >= 0 {
			return fmt.Errorf("%w: rollup row %d is out of order", ErrRefused, i)
		}
	}
	return nil
}

// largestKept bounds the buffers kept for the next flush.
const largestKept = 32 << 20

func (s *Store) putEncoder(e *encoder) {
	if cap(e.buf) <= largestKept {
		s.encoders.Put(e)
	}
}

// try is one try to commit the flush. Whatever takes time in this process is done before the
// transaction begins: a process that gets little of a processor must not keep rows locked
// meanwhile.
func (s *Store) try(ctx context.Context, f *spend.Flush, encoded encodedFlush, isolating bool) error {
	tx := &transaction{store: s}
	var rows []call
	if !isolating {
		e := s.encoders.Get().(*encoder)
		defer s.putEncoder(e)
		rows = tx.prepare(e, f)
	}
	return tx.on(ctx, func() error { return tx.book(ctx, tx.beginCalls(), f, encoded, rows) })
}

// on has do use the transaction on a connection. What it has committed is known from then on.
func (t *transaction) on(ctx context.Context, do func() error) error {
	err := t.store.on(ctx, func(conn *pgx.Conn) error {
		t.conn = conn.PgConn()
		defer t.end(ctx)
		return do()
	})
	if err == nil {
		t.learn()
	}
	return err
}

// book claims, adds the rows and commits. begin is what begins the transaction, none if it has
// begun. The claim is a round trip of its own, so that a flush which has lost does no work.
func (t *transaction) book(ctx context.Context, begin []call, f *spend.Flush, encoded encodedFlush, rows []call) error {
	if err := t.claimAfter(ctx, begin, f, encoded); err != nil {
		return err
	}
	if err := t.addAll(ctx, f, encoded, rows); err != nil {
		return err
	}
	return t.commit(ctx)
}

// beginAndClaim begins the transaction and moves the marks.
func (t *transaction) beginAndClaim(ctx context.Context, f *spend.Flush, encoded encodedFlush) error {
	return t.claimAfter(ctx, t.beginCalls(), f, encoded)
}

// claim moves the marks, notes the batches that are skipped as lost, and claims those that are
// found. The error wraps ErrFenced if a mark isn't where it should be, or a batch found isn't
// missing.
func (t *transaction) claim(ctx context.Context, f *spend.Flush, encoded encodedFlush) error {
	return t.claimAfter(ctx, nil, f, encoded)
}

func (t *transaction) claimAfter(ctx context.Context, calls []call, f *spend.Flush, encoded encodedFlush) error {
	var moved, found, covered, twice int64
	if encoded.look != nil {
		calls = append(calls, encoded.look.turnCalls()...)
	}
	if len(f.Claims) > 0 {
		calls = append(calls, call{name: "claim", rows: -1, params: encoded.claims, answer: &moved})
	}
	if len(f.Found) > 0 {
		calls = append(calls, call{name: "hold_marks", rows: -1, params: encoded.held}, call{name: "split", rows: -1, params: encoded.split},
			call{name: "find", rows: -1, params: encoded.found, answer: &found})
	}
	if len(f.ByHand) > 0 {
		calls = append(calls, call{name: "by_hand_covered", rows: -1, params: encoded.covered, answer: &covered})
	}
	calls = append(calls, call{name: "by_hand_twice", rows: -1, params: encoded.twice, answer: &twice})
	if len(f.Lost) > 0 { // some of those found can't be booked
		calls = append(calls, call{name: "lose", rows: len(f.Lost), params: encoded.lost})
	}
	if len(f.Quarantine) > 0 {
		calls = append(calls, call{name: "quarantine_batch", rows: -1, params: encoded.quarantine})
	}
	var same int64
	if err := t.run(ctx, append(calls, sameBooks(f.Books, &same))...); err != nil {
		return err
	}
	if same != 1 {
		return otherBooks(f.Books)
	}
	if encoded.look != nil {
		if err := encoded.look.checkTurns(); err != nil {
			return err
		}
	}
	if moved != int64(len(f.Claims)) || found != int64(len(f.Found)) {
		return fmt.Errorf("%d of %d claims, %d of %d batches found: %w",
			moved, len(f.Claims), found, len(f.Found), spend.ErrFenced)
	}
	if covered != int64(len(f.ByHand)) || twice > 0 {
		return fmt.Errorf("%d of %d batches were applied by hand, and %d more: %w", covered, len(f.ByHand), twice, spend.ErrFenced)
	}
	return nil
}

func (t *transaction) begin(ctx context.Context) error { return t.run(ctx, t.beginCalls()...) }

func (t *transaction) beginCalls() []call {
	return []call{{name: "begin", rows: -1}, {name: "settings", rows: -1}}
}

// addAll adds the rows and the control sums, and takes up what the dictionaries lack. The control
// sums come first: two flushes of a shard that share a row share a control sum, wait for each other
// there, and can't deadlock below. rows is what prepare has returned; if it is nil the rows are
// added in parts, to find out which one is refused.
func (t *transaction) addAll(ctx context.Context, f *spend.Flush, encoded encodedFlush, rows []call) error {
	sums := append([]call{{name: "add_control", params: encoded.control, rows: -1}}, encoded.fingerprints...)
	sums = append(sums, encoded.facts...)
	if rows == nil {
		if err := t.run(ctx, sums...); err != nil {
			return err
		}
		return t.addIsolating(ctx, f)
	}
	return t.runInParts(ctx, append(sums, rows...))
}

// prepare encodes the rows of the flush, and what the dictionaries lack of them, into an encoder
// that must be left alone until they were sent. It never returns nil.
func (t *transaction) prepare(e *encoder, f *spend.Flush) []call {
	known := &t.store.known
	totals, epoch := known.partition(len(f.Totals), func(i int) row { return totalOf(f.Shard, &f.Totals[i]) })
	rollups, _ := known.partition(len(f.Rollups), func(i int) row { return rollupOf(&f.Rollups[i]) })
	t.epoch = epoch // the earlier one: if everything was evicted in between, nothing is learned

	params := e.parts(
		func() { encodeTotals(e, f.Shard, f.Totals, totals.present) },
		func() { t.encodeFreshTotals(e, f.Shard, f.Totals, totals.unsure) },
		func() { encodeRollups(e, f.Rollups, rollups.present) },
		func() { t.encodeFreshRollups(e, f.Rollups, rollups.unsure) },
	)
	calls := t.internEntities([]call{}, f.Totals, totals.missing)
	calls = t.internSeries(calls, f.Rollups, rollups.missing)
	calls = t.makeParts(calls, f.Rollups)
	for i, c := range []call{
		{name: "add_known_totals", rows: len(totals.present)}, {name: "add_totals", rows: len(totals.unsure)},
		{name: "add_known_rollups", rows: len(rollups.present)}, {name: "add_rollups", rows: len(rollups.unsure)},
	} {
		if c.rows > 0 {
			c.params = params[i]
			calls = append(calls, c)
		}
	}
	return calls
}

// runInParts runs calls in order, as many in one round trip as have parameters of maxRoundTrip
// bytes, at least one.
func (t *transaction) runInParts(ctx context.Context, calls []call) error {
	for len(calls) > 0 {
		n, bytes := 0, 0
		for n < len(calls) && (n == 0 || bytes+calls[n].size() <= maxRoundTrip) {
			bytes += calls[n].size()
			n++
		}
		if err := t.run(ctx, calls[:n]...); err != nil {
			return err
		}
		calls = calls[n:]
	}
	return nil
}

// maxRoundTrip bounds what is sent before the answers are read, so that the copy that it takes
// stays small.
const maxRoundTrip = 16 << 20

// size returns how many bytes the parameters have.
func (c *call) size() (n int) {
	for _, p := range c.params {
		n += len(p.value)
	}
	return n
}
