package bench

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// The usual cure: sums in memory, a Redis list, and one who drains it, row by row or in bulk. No
// lock is taken, and nothing is done about what gets lost between two steps: that would only make
// it slower.

const (
	listKey    = keyPrefix + ":list"
	pushEvery  = 200 * time.Millisecond
	drainEvery = 500 * time.Millisecond
	popAtOnce  = 100
)

// usualBatch is what an instance pushes: sums by the hexadecimal key of the entity, or of the
// series.
type usualBatch struct {
	Totals  map[string]*spend.Counters `json:"totals"`
	Rollups map[string]*spend.Counters `json:"rollups"`
}

func newUsualBatch() *usualBatch {
	return &usualBatch{Totals: map[string]*spend.Counters{}, Rollups: map[string]*spend.Counters{}}
}

func addTo(sums map[string]*spend.Counters, key string, c *spend.Counters) {
	sum := sums[key]
	if sum == nil {
		sum = new(spend.Counters)
		sums[key] = sum
	}
	sum.Add(c)
}

// usualKeys are the keys that an update of a series counts on. Instances find them by the API key,
// which is all that tells the series of this traffic apart.
type usualKeys struct {
	series   string
	entities []string
}

func usualKeysOf(s *spend.Series) *usualKeys {
	text := func(k spend.Key) string { return hex.EncodeToString(k[:]) }
	keys := &usualKeys{series: text(s.Key())}
	for _, e := range load.Entities(s) {
		keys.entities = append(keys.entities, text(e.Key()))
	}
	return keys
}

// usualInstance sums up and pushes.
type usualInstance struct {
	mu    sync.Mutex
	sums  *usualBatch
	known map[string]*usualKeys
}

func (in *usualInstance) record(u *spend.Update) {
	c := load.Counters(u)
	in.mu.Lock()
	defer in.mu.Unlock()
	keys := in.known[u.APIKey]
	if keys == nil {
		keys = usualKeysOf(&u.Series)
		in.known[u.APIKey] = keys
	}
	for _, entity := range keys.entities {
		addTo(in.sums.Totals, entity, &c)
	}
	addTo(in.sums.Rollups, keys.series, &c)
}

func (in *usualInstance) push(ctx context.Context, to redis.UniversalClient) error {
	in.mu.Lock()
	sums := in.sums
	in.sums = newUsualBatch()
	in.mu.Unlock()
	if len(sums.Rollups) == 0 {
		return nil
	}
	text, err := json.Marshal(sums)
	if err != nil {
		return err
	}
	return to.RPush(ctx, listKey, text).Err()
}

// pushAll pushes at every tick until recording is over, and then what is left.
func (in *usualInstance) pushAll(ctx context.Context, to redis.UniversalClient, over <-chan struct{}) error {
	ticker := time.NewTicker(pushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-over:
			return in.push(ctx, to)
		case <-ticker.C:
			if err := in.push(ctx, to); err != nil {
				return err
			}
		}
	}
}

// drain runs the usual cure. The time runs until the list is empty.
func (r *run) drain(ctx context.Context, w *load.Workload, n int, write writing) (map[string]float64, error) {
	if err := r.env.fresh(ctx); err != nil {
		return nil, err
	}
	tables, err := load.MakeTables(ctx, r.env.pool, directSchema)
	if err != nil {
		return nil, err
	}
	conn, err := r.env.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))

	instances := make([]*usualInstance, n)
	for i := range instances {
		instances[i] = &usualInstance{sums: newUsualBatch(), known: map[string]*usualKeys{}}
	}
	begun := time.Now()
	over, pushed := make(chan struct{}), make(chan struct{})
	var next atomic.Uint64
	var recording, pushing, draining errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		recording.Go(func() error {
			var u spend.Update
			for time.Since(begun) < r.Duration && ctx.Err() == nil {
				first := next.Add(chunk) - chunk
				in := instances[first/chunk%uint64(n)]
				for number := first; number < first+chunk; number++ {
					w.Fill(number, &u)
					in.record(&u)
				}
			}
			return ctx.Err()
		})
	}
	for _, in := range instances {
		pushing.Go(func() error { return in.pushAll(ctx, r.env.client, over) })
	}
	d := drain{from: r.env.client, to: conn, tables: tables, write: write}
	draining.Go(func() error { return d.run(ctx, pushed) })
	err = recording.Wait()
	close(over)
	err = errors.Join(err, pushing.Wait())
	close(pushed)
	if err = errors.Join(err, draining.Wait()); err != nil {
		return nil, err
	}
	took := time.Since(begun).Seconds()
	booked, err := tables.Updates(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"updates": float64(booked.APIRequests()) / took, "rows": float64(d.rows) / took, "deadlocks": 0,
		"flush": float64(d.rows) / d.writing.Seconds(),
		"lost":  float64(int64(next.Load()) - booked.APIRequests()),
	}, nil
}

// drain commits what is in the list.
type drain struct {
	from   redis.UniversalClient
	to     *pgx.Conn
	tables *load.Tables
	write  writing

	rows    int
	writing time.Duration // of the transactions
}

// run works until the list is empty after the last push.
func (d *drain) run(ctx context.Context, pushed <-chan struct{}) error {
	for {
		last := false
		select {
		case <-pushed:
			last = true
		case <-time.After(drainEvery):
		}
		for {
			popped, err := d.once(ctx)
			if err != nil {
				return err
			}
			if popped < popAtOnce {
				break
			}
		}
		if last {
			return nil
		}
	}
}

func (d *drain) once(ctx context.Context) (popped int, err error) {
	texts, err := d.from.LPopCount(ctx, listKey, popAtOnce).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	sums := newUsualBatch()
	for _, text := range texts {
		var b usualBatch
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			return 0, err
		}
		for key, c := range b.Totals {
			addTo(sums.Totals, key, c)
		}
		for key, c := range b.Rollups {
			addTo(sums.Rollups, key, c)
		}
	}
	begun := time.Now()
	if err := d.commit(ctx, sums); err != nil {
		return 0, err
	}
	d.writing += time.Since(begun)
	return len(texts), nil
}

// commit writes the sums in one transaction.
func (d *drain) commit(ctx context.Context, sums *usualBatch) error {
	totals, err := sorted(sums.Totals)
	if err != nil {
		return err
	}
	rollups, err := sorted(sums.Rollups)
	if err != nil {
		return err
	}
	tx, err := d.to.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) // nothing to do after the commit

	if err := d.write(ctx, d.tables, tx, totals, rollups); err != nil {
		return err
	}
	d.rows += len(totals) + len(rollups)
	return tx.Commit(ctx)
}

// sorted are the sums in the order of their keys.
func sorted(sums map[string]*spend.Counters) ([]load.Sum, error) {
	list := make([]load.Sum, 0, len(sums))
	for text, c := range sums {
		key, err := keyOf(text)
		if err != nil {
			return nil, err
		}
		list = append(list, load.Sum{Key: key, Counters: c})
	}
	load.SortSums(list)
	return list, nil
}

// writing adds sums to the tables.
type writing func(ctx context.Context, tables *load.Tables, to load.Execer, totals, rollups []load.Sum) error

// rowByRow is a statement a row.
func rowByRow(ctx context.Context, tables *load.Tables, to load.Execer, totals, rollups []load.Sum) error {
	for _, s := range totals {
		if err := tables.AddTotal(ctx, to, s.Key, s.Counters); err != nil {
			return err
		}
	}
	hour := spend.HourOf(time.Now())
	for _, s := range rollups {
		if err := tables.AddRollup(ctx, to, s.Key, hour, s.Counters); err != nil {
			return err
		}
	}
	return nil
}

// inBulk is a statement of up to load.BulkRows rows.
func inBulk(ctx context.Context, tables *load.Tables, to load.Execer, totals, rollups []load.Sum) error {
	if err := tables.AddTotals(ctx, to, totals); err != nil {
		return err
	}
	return tables.AddRollups(ctx, to, spend.HourOf(time.Now()), rollups)
}

func keyOf(text string) (key spend.Key, err error) {
	_, err = hex.Decode(key[:], []byte(text))
	return key, err
}
