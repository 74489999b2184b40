package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/internal/sqlhook"
	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

const flushAbout = `The same rows committed again and again on one connection, every one of them there already. **limit** is the two bare UPSERTs from
arrays that these rows take, made beforehand and sent as one transaction. **flush** is all that spendflush does from the merged rows on:
it encodes them, moves marks, adds control sums, looks up what it knows, updates, commits. **without claims** is the same, but marks
are not moved. WAL is Postgres's log. Each cell is the median of the rounds, each round the mean of its commits.`

func flushKeys(r *run) []int {
	if r.Quick {
		return []int{1000}
	}
	return []int{3700, 10_000, 37_000}
}

func flushSteps(r *run) int { return 3 * r.Rounds * len(flushKeys(r)) }

func measureFlush(ctx context.Context, r *run) error {
	t := Table{Part: "flush", Title: "A flush against the bare UPSERT", About: flushAbout,
		Columns: []string{"rows/s", "of limit", "of without claims", "ms a flush", "WAL bytes a row"}}
	for _, keys := range flushKeys(r) {
		flushes, rows, err := captureFlushes(ctx, keys)
		if err != nil {
			return err
		}
		bound, whole, unclaimed := fmt.Sprintf("limit of %d keys", keys), fmt.Sprintf("flush of %d keys", keys), fmt.Sprintf("%d keys without claims", keys)
		got, err := r.compare(ctx, r.Rounds, []variant{
			{whole, func(ctx context.Context) (map[string]float64, error) { return r.apply(ctx, flushes, rows, false) }},
			{bound, func(ctx context.Context) (map[string]float64, error) { return r.limit(ctx, flushes, rows) }},
			{unclaimed, func(ctx context.Context) (map[string]float64, error) { return r.apply(ctx, flushes, rows, true) }},
		})
		if err != nil {
			return err
		}
		flush, limit, free := got[whole], got[bound], got[unclaimed]
		name := func(what string) string { return fmt.Sprintf("%s rows, %s", number(float64(rows)), what) }
		ofLimit, ofFree := ratios(flush["rows"], limit["rows"]), ratios(flush["rows"], free["rows"])
		t.row(name("limit"), limit["rows"], nil, nil, limit["ms"], limit["wal"])
		t.row(name("flush"), flush["rows"], ofLimit, ofFree, flush["ms"], flush["wal"])
		t.row(name("without claims"), free["rows"], ratios(free["rows"], limit["rows"]), nil, free["ms"], free["wal"])
		r.report.atLeast("flush", fmt.Sprintf("flush / limit, %s rows", number(float64(rows))), "", 0.9, ofLimit)
		r.report.atLeast("flush", fmt.Sprintf("with claims / without, %s rows", number(float64(rows))), "", 0.97, ofFree)
	}
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

// repeat calls once, which commits so many rows, for as long as a measurement takes, and twice
// before that.
func (r *run) repeat(ctx context.Context, rows int, once func() error) (map[string]float64, error) {
	for range 2 {
		if err := once(); err != nil {
			return nil, err
		}
	}
	before, err := r.env.activity(ctx)
	if err != nil {
		return nil, err
	}
	n := 0
	begun := time.Now()
	for ; n == 0 || time.Since(begun) < r.Duration; n++ {
		if err := once(); err != nil {
			return nil, err
		}
	}
	took := time.Since(begun).Seconds()
	after, err := r.env.activity(ctx)
	if err != nil {
		return nil, err
	}
	all := float64(n * rows)
	return map[string]float64{"rows": all / took, "ms": took * 1000 / float64(n), "wal": (after.wal - before.wal) / all}, nil
}

// apply commits the flushes through a Store.
func (r *run) apply(ctx context.Context, flushes []*spend.Flush, rows int, free bool) (map[string]float64, error) {
	if err := r.env.fresh(ctx); err != nil {
		return nil, err
	}
	store, err := pgstore.Open(ctx, r.env.databaseURL, pgstore.Options{})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	if free {
		sqlhook.Replace(store, withoutClaims)
	}
	copies, err := flushesFor(ctx, store, flushes)
	if err != nil {
		return nil, err
	}
	return r.repeat(ctx, rows, func() error {
		for _, f := range copies {
			if err := store.Apply(ctx, f); err != nil {
				return err
			}
			for i := range f.Claims {
				c := &f.Claims[i]
				c.First, c.Last = c.Last+1, c.Last+1+(c.Last-c.First)
				c.Prior = c.Digest // as if the next batches held the same
			}
		}
		return nil
	})
}

// copyFlushes copies what is moved from one round to the next. All flushes of a producer are made
// to follow each other.
func copyFlushes(flushes []*spend.Flush) []*spend.Flush {
	copies := make([]*spend.Flush, len(flushes))
	for i, f := range flushes {
		c := *f
		c.Claims = append([]spend.Claim(nil), f.Claims...)
		for j := range c.Claims {
			c.Claims[j].Producer = spend.NewProducerID(time.Now()) // each flush has its own marks
			c.Claims[j].Prior = spend.Digest{}
			c.Claims[j].First, c.Claims[j].Last = 1, 1+c.Claims[j].Last-c.Claims[j].First
		}
		copies[i] = &c
	}
	return copies
}

// withoutClaims has the claims answered as if all had moved.
func withoutClaims(name, text string) string {
	if name != "claim" {
		return text
	}
	return `
SELECT count(*)
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::uuid[], $6::uuid[], $7::bytea[], $8::bigint[], $9::numeric[],
        $10::bigint[], $11::numeric[]) AS u
WHERE $1::smallint >= 0`
}

// flushesFor returns copies of the flushes, for the books of the store.
func flushesFor(ctx context.Context, store *pgstore.Store, flushes []*spend.Flush) ([]*spend.Flush, error) {
	books, err := store.Books(ctx)
	if err != nil {
		return nil, err
	}
	copies := copyFlushes(flushes)
	for _, f := range copies {
		f.Books = books
	}
	return copies, nil
}

// limit is the bare UPSERT of the rows of these flushes.
func (r *run) limit(ctx context.Context, flushes []*spend.Flush, rows int) (map[string]float64, error) {
	if err := r.env.fresh(ctx); err != nil {
		return nil, err
	}
	store, err := pgstore.Open(ctx, r.env.databaseURL, pgstore.Options{})
	if err != nil {
		return nil, err
	}
	copies, err := flushesFor(ctx, store, flushes)
	for _, f := range copies { // so that all rows are there
		err = errors.Join(err, store.Apply(ctx, f))
	}
	store.Close()
	if err != nil {
		return nil, err
	}
	conn, err := r.env.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var encoded []bareFlush
	for _, f := range flushes {
		b, err := encodeBare(conn, f)
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, b)
	}
	return r.repeat(ctx, rows, func() error {
		for i := range encoded {
			if err := encoded[i].send(ctx, conn); err != nil {
				return err
			}
		}
		return nil
	})
}

// bareFlush is the rows of a flush as parameters of two UPSERTs.
type bareFlush struct{ totals, rollups bareStatement }

type bareStatement struct {
	text    string
	values  [][]byte
	oids    []uint32
	formats []int16
}

func encodeBare(conn *pgx.Conn, f *spend.Flush) (b bareFlush, err error) {
	totals, rollups := counterColumns(len(f.Totals)), counterColumns(len(f.Rollups))
	entities, series := make([][16]byte, len(f.Totals)), make([][16]byte, len(f.Rollups))
	days, hours := make([]time.Time, len(f.Rollups)), make([]int16, len(f.Rollups))
	for i := range f.Totals {
		entities[i] = f.Totals[i].Key
		totals.set(i, &f.Totals[i].Counters)
	}
	for i := range f.Rollups {
		at := f.Rollups[i].Hour.Time()
		series[i], days[i], hours[i] = f.Rollups[i].Key, at, int16(at.Hour())
		rollups.set(i, &f.Rollups[i].Counters)
	}
	if b.totals, err = encodeStatement(conn, "add_totals", append([]any{entities, int16(f.Shard)}, totals.params()...)); err != nil {
		return b, err
	}
	b.rollups, err = encodeStatement(conn, "add_rollups", append([]any{days, hours, series}, rollups.params()...))
	return b, err
}

// columns are counters as arrays.
type columns struct {
	spend  []pgtype.Numeric
	counts [spend.Counts][]int64
}

func counterColumns(n int) *columns {
	c := &columns{spend: make([]pgtype.Numeric, n)}
	for i := range c.counts {
		c.counts[i] = make([]int64, n)
	}
	return c
}

func (c *columns) set(i int, from *spend.Counters) {
	c.spend[i] = numeric(from.Spend)
	for j := range c.counts {
		c.counts[j][i] = *from.Count(j)
	}
}

func numeric(a spend.Amount) pgtype.Numeric {
	hi, lo := a.Units()
	n := new(big.Int).Lsh(big.NewInt(hi), 64)
	return pgtype.Numeric{Int: n.Add(n, new(big.Int).SetUint64(lo)), Exp: -spend.AmountScale, Valid: true}
}

func (c *columns) params() []any {
	all := []any{c.spend}
	for _, counts := range c.counts {
		all = append(all, counts)
	}
	return all
}

// types are the types of the parameters by the Go types of the columns.
func typeOf(column any) string {
	switch column.(type) {
	case [][16]byte:
		return "_uuid"
	case []time.Time:
		return "_date"
	case []int16:
		return "_int2"
	case int16:
		return "int2"
	case []int64:
		return "_int8"
	}
	return "_numeric"
}

func encodeStatement(conn *pgx.Conn, name string, params []any) (s bareStatement, err error) {
	s.text = sqlhook.Text(name)
	for i, column := range params {
		kind, ok := conn.TypeMap().TypeForName(typeOf(column))
		if !ok {
			return s, fmt.Errorf("no type %s", typeOf(column))
		}
		value, err := conn.TypeMap().Encode(kind.OID, pgx.BinaryFormatCode, column, nil)
		if err != nil || value == nil {
			return s, fmt.Errorf("parameter %d of %s can't be encoded as %s", i+1, name, kind.Name) // the error would show all of it
		}
		s.values, s.oids, s.formats = append(s.values, value), append(s.oids, kind.OID), append(s.formats, pgx.BinaryFormatCode)
	}
	return s, nil
}

// send sends both as one transaction.
func (b *bareFlush) send(ctx context.Context, conn *pgx.Conn) error {
	batch := &pgconn.Batch{}
	for _, s := range []*bareStatement{&b.totals, &b.rollups} {
		batch.ExecParams(s.text, s.values, s.oids, s.formats, nil)
	}
	_, err := conn.PgConn().ExecBatch(ctx, batch).ReadAll()
	return err
}

// captureFlushes returns what a pipeline would commit after an update of each key, and how many
// rows that are.
func captureFlushes(ctx context.Context, keys int) ([]*spend.Flush, int, error) {
	w, err := load.New(load.Shape{Seed: 1, Keys: keys})
	if err != nil {
		return nil, 0, err
	}
	captured := &capturingStore{}
	p, err := spendflush.New(spendflush.Config{Store: captured, DirectLocker: memlock.New("bench"), MaxKeys: 4*keys + 1000})
	if err != nil {
		return nil, 0, err
	}
	// All of it before Run, so that it is one seal.
	updates := make([]spend.Update, keys)
	for i := range updates {
		updates[i] = w.Update(uint64(i))
	}
	receipt, err := p.RecordAll(updates)
	if err != nil {
		return nil, 0, err
	}
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	_, err = p.Wait(ctx, receipt, spendflush.Committed)
	if err = errors.Join(err, p.Shutdown(ctx), <-ran); err != nil {
		return nil, 0, err
	}
	rows := 0
	for _, f := range captured.flushes {
		rows += len(f.Totals) + len(f.Rollups)
	}
	return captured.flushes, rows, nil
}

// capturingStore keeps the flushes and commits nothing.
type capturingStore struct {
	mu      sync.Mutex
	flushes []*spend.Flush
	marks   map[spend.ProducerID]spend.Mark
	changes int64
}

// capturedBooks are the books of a store that commits nothing.
var capturedBooks = spend.BooksID{1}

func (s *capturingStore) Books(context.Context) (spend.BooksID, error) {
	return capturedBooks, nil
}

func (s *capturingStore) Marks(_ context.Context, _ int, ids []spend.ProducerID) (spend.Marks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	marks := spend.Marks{Books: capturedBooks, Changes: s.changes, Of: map[spend.ProducerID]spend.Mark{}}
	for _, id := range ids {
		if mark, ok := s.marks[id]; ok {
			marks.Of[id] = mark
		}
	}
	return marks, nil
}

func (s *capturingStore) Apply(_ context.Context, f *spend.Flush) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := *f
	s.flushes = append(s.flushes, &kept)
	if s.marks == nil {
		s.marks = map[spend.ProducerID]spend.Mark{}
	}
	for _, c := range f.Claims {
		s.marks[c.Producer] = spend.Mark{Sequence: c.Last, Digest: c.Digest, Recent: c.Recent, Updates: c.SealedUpdates, Amount: c.SealedAmount}
	}
	s.changes++
	return nil
}

func (s *capturingStore) Quarantine(context.Context, []spend.BadBatch) error {
	return io.ErrUnexpectedEOF
}

func (s *capturingStore) InQuarantine(context.Context, int, [][sha256.Size]byte) ([]bool, error) {
	return nil, io.ErrUnexpectedEOF
}

func (s *capturingStore) TouchMarks(context.Context, []spend.ProducerID, time.Time, time.Duration) (int64, error) {
	return 0, nil
}

// spelled puts a number of keys into a text.
func spelled(about string, keys int) string {
	return strings.ReplaceAll(about, "%s", number(float64(keys)))
}
