package spendflush

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func TestUpdatesRecordedWhileSealingAreCountedExactlyOnce(t *testing.T) {
	const writers, each = 4, 4000
	m := newOpenMap(256, spend.AllDimensions, 0) // few cells a stripe, so that rotations go on all the time
	s := newSealer(3, 100)
	want := make([]*books, writers)
	got := newBooks()
	var running sync.WaitGroup
	for w := range writers {
		want[w] = newBooks()
		r := rand.New(rand.NewPCG(7, uint64(w)))
		running.Go(func() {
			for i := 0; i < each; {
				if r.IntN(3) > 0 {
					u := randomUpdate(r)
					if _, err := m.addUpdate(&u, spend.Hour(i/1000)); err != nil {
						continue // full: the sealer makes room
					}
					want[w].book(&u, spend.Hour(i/1000))
					i++
					continue
				}
				group, slots := make([]spend.Update, 1+r.IntN(5)), make([]slot, 5)
				for j := range group {
					group[j], slots[j].hour = randomUpdate(r), spend.Hour(r.IntN(2))
				}
				if _, err := m.addGroup("", group, slots[:len(group)]); err != nil {
					continue
				}
				for j := range group {
					want[w].book(&group[j], slots[j].hour)
				}
				i += len(group)
			}
		})
	}
	var done atomic.Bool
	var sealing sync.WaitGroup
	sealing.Go(func() {
		for last := false; !last; {
			last = done.Load() // what was recorded before is in the seal that follows
			if seal, shards := sealed(m, s); seal != 0 {
				for _, part := range slices.Concat(shards...) {
					got.apply(part.totals, part.rollups)
				}
			}
		}
	})
	running.Wait()
	done.Store(true)
	sealing.Wait()
	all := newBooks()
	for _, w := range want {
		all.updates += w.updates
		all.amount = all.amount.Add(w.amount)
		for e, c := range w.totals {
			sum := all.totals[e]
			sum.Add(&c)
			all.totals[e] = sum
		}
		for name, c := range w.rollups {
			sum := all.rollups[name]
			sum.Add(&c)
			all.rollups[name] = sum
		}
	}
	got.mustEqual(t, all)
	if sums := m.sums(); sums.keys != 0 || sums.updates != 0 || sums.amount != (spend.Amount{}) || sums.accepted != all.updates {
		t.Errorf("after the last seal the open map counts %+v; want none open and %d accepted", sums, all.updates)
	}
}

// Every group books one dollar on one key and takes it off another: a seal that tears a group apart
// doesn't add up.
func TestSealNeverTearsAGroupApart(t *testing.T) {
	m := newOpenMap(1_000_000, spend.AllDimensions, 0)
	s := newSealer(1, 1_000_000)
	var done atomic.Bool
	var running sync.WaitGroup
	for w := range 3 {
		r := rand.New(rand.NewPCG(3, uint64(w)))
		running.Go(func() {
			for !done.Load() {
				group := make([]spend.Update, 8)
				for i := range group {
					group[i] = spend.Update{Cost: spend.Cost{Spend: spend.Dollars(int64(1 - 2*(i%2)))}, Series: spend.Series{APIKey: fmt.Sprint("k", r.IntN(100))}}
				}
				if _, err := m.addGroup("", group, make([]slot, len(group))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for seals := 0; seals < 200; {
		_, shards := sealed(m, s)
		if shards == nil {
			runtime.Gosched() // nothing was recorded yet
			continue
		}
		seals++
		var sum spend.Counters
		for i := range shards[0][0].rollups {
			sum.Add(&shards[0][0].rollups[i].Counters)
		}
		if sum.Spend != (spend.Amount{}) || sum.APIRequests()%8 != 0 {
			t.Errorf("a seal holds %d updates of %s dollars: a part of a group", sum.APIRequests(), sum.Spend)
			break
		}
	}
	done.Store(true)
	running.Wait()
}

func key(id string) spend.Update {
	return spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: id}}
}

func TestFullBufferStillTakesTheKeysItHas(t *testing.T) {
	m := newOpenMap(3, spend.AllDimensions, 0)
	add := func(id string) error {
		u := key(id)
		_, err := m.addUpdate(&u, 0)
		return err
	}
	for _, id := range []string{"a", "b", "c", "a"} {
		if err := add(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := add("d"); !errors.Is(err, ErrBufferFull) {
		t.Fatalf("a fourth key: %v; want ErrBufferFull", err)
	}
	if err := add("b"); err != nil {
		t.Fatalf("a key that is open: %v", err)
	}
	if sums := m.sums(); sums.keys != 3 || sums.updates != 5 {
		t.Fatalf("%+v; want 3 keys and 5 updates", sums)
	}
	_, shards := sealed(m, newSealer(1, 3))
	if len(shards[0][0].rollups) != 3 {
		t.Fatalf("%d rows sealed, want 3", len(shards[0][0].rollups))
	}
	if err := add("d"); err != nil {
		t.Fatalf("a new key after the seal: %v", err)
	}
}

func TestGroupThatDoesntFitIsRefusedWhole(t *testing.T) {
	m := newOpenMap(4, spend.AllDimensions, 0)
	group := func(ids ...string) error {
		var updates []spend.Update
		for _, id := range ids {
			updates = append(updates, key(id))
		}
		_, err := m.addGroup("", updates, make([]slot, len(updates)))
		return err
	}
	if err := group("a", "b"); err != nil {
		t.Fatal(err)
	}
	if err := group("c", "a", "d", "e"); !errors.Is(err, ErrBufferFull) {
		t.Fatalf("three new keys where two fit: %v; want ErrBufferFull", err)
	}
	if sums := m.sums(); sums.keys != 2 || sums.updates != 2 {
		t.Fatalf("after the refusal: %+v; want 2 keys and 2 updates", sums)
	}
	if err := group("a", "b", "a", "b", "c", "c", "d"); err != nil {
		t.Fatalf("two new keys in seven updates: %v", err)
	}
	if sums := m.sums(); sums.keys != 4 || sums.updates != 9 {
		t.Fatalf("%+v; want 4 keys and 9 updates", sums)
	}
}

func TestNothingIsRecordedAfterTheLastSeal(t *testing.T) {
	m := newOpenMap(1_000_000, spend.AllDimensions, 0)
	s := newSealer(1, 1000)
	var accepted atomic.Int64
	var running sync.WaitGroup
	for w := range 4 {
		running.Go(func() {
			for i := 0; ; i++ {
				u := key(fmt.Sprint(w, i%100))
				var err error
				if i%2 == 0 {
					_, err = m.addUpdate(&u, 0)
				} else {
					_, err = m.addGroup("", []spend.Update{u, u}, make([]slot, 2))
				}
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
					return
				}
				accepted.Add(int64(1 + i%2))
			}
		})
	}
	for accepted.Load() < 1000 {
		runtime.Gosched()
	}
	seal, dirty, _ := m.swap(true)
	shards := s.parts(seal, dirty)
	m.recycle(dirty)
	running.Wait()
	got := newBooks()
	got.apply(shards[0][0].totals, shards[0][0].rollups)
	if got.updates != accepted.Load() {
		t.Fatalf("the last seal has %d updates, %d were accepted", got.updates, accepted.Load())
	}
	if sums := m.sums(); sums.keys != 0 || sums.updates != 0 {
		t.Fatalf("%+v is open after the last seal", sums)
	}
}

func TestKnownKeyCostsNoAllocation(t *testing.T) {
	p := newTestPipeline(t, Config{Store: newTestStore(), DirectLocker: newTestLocker()})
	u := spend.Update{
		Cost:   spend.Cost{Spend: spend.Picodollars(1_200_000), Time: time.Now(), PromptTokens: 10},
		Series: spend.Series{APIKey: "sk-1", UserID: "u", TeamID: "t", Model: "gpt", Tags: []string{"b", "a", "b"}},
	}
	for range 2 { // the first of each of the two seals makes the lists
		if err := p.Record(&u); err != nil {
			t.Fatal(err)
		}
		p.seal(false)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if err := p.Record(&u); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Record of a known key makes %v allocations", n)
	}
}

func TestCellEvictedWhileItHasUpdatesIsStillCounted(t *testing.T) {
	m := newOpenMap(1000, spend.AllDimensions, 0)
	want := newBooks()
	add := func() {
		u := key("a")
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
		want.book(&u, 0)
	}
	add()
	m.evictIdle()
	m.evictIdle() // the cell is in neither map now, only in the dirty list
	add()
	add()
	if sums := m.sums(); sums.keys != 2 {
		t.Fatalf("%d cells are open; want the forgotten and its successor", sums.keys)
	}
	_, shards := sealed(m, newSealer(1, 1000))
	if len(shards[0][0].rollups) != 1 || len(shards[0][0].totals) != 1 {
		t.Fatalf("%d rollup rows and %d totals; want 1 and 1", len(shards[0][0].rollups), len(shards[0][0].totals))
	}
	got := newBooks()
	got.apply(shards[0][0].totals, shards[0][0].rollups)
	got.mustEqual(t, want)
	if sums := m.sums(); sums.keys != 0 {
		t.Fatalf("%d keys are open after the seal", sums.keys)
	}
}

func TestKeysSeenOnceDontStayInMemory(t *testing.T) {
	const most = 640
	m := newOpenMap(most, spend.AllDimensions, 0)
	s := newSealer(1, most)
	for i := range 50_000 {
		u := key(fmt.Sprint(i))
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
		if i%500 == 499 {
			sealed(m, s)
		}
	}
	cells := 0
	for i := range m.stripes {
		cells += len(m.stripes[i].cells) + len(m.stripes[i].older)
	}
	if cells > 3*most+2*stripeCount || len(s.entities) > 2*most {
		t.Errorf("%d cells and %d entities are kept where %d keys may be open", cells, len(s.entities), most)
	}
}

func TestHourHoldsItsLastMillisecondAndNotTheNext(t *testing.T) {
	start := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	for name, at := range map[string]time.Time{
		"hour": start, "1970": time.Unix(0, 0), "before 1970": time.Unix(-3600*5, 0), "long before": time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		h := spend.HourOf(at)
		if !h.Time().Equal(at) {
			t.Errorf("%s: the hour of %s begins at %s", name, at, h.Time())
		}
		if spend.HourOf(at.Add(time.Hour-time.Millisecond)) != h || spend.HourOf(at.Add(time.Hour-1)) != h {
			t.Errorf("%s: 59:59.999 is in another hour", name)
		}
		if spend.HourOf(at.Add(-1)) != h-1 || spend.HourOf(at.Add(time.Hour)) != h+1 {
			t.Errorf("%s: the neighbours aren't in the hours beside", name)
		}
		c := cell{key: string(appendCellKey(nil, h, &spend.Series{APIKey: "k"}, spend.AllDimensions))}
		if c.hour() != h {
			t.Errorf("%s: the cell of hour %d says %d", name, h, c.hour())
		}
	}
	zone := time.FixedZone("", 5*3600+1800)
	if spend.HourOf(start.In(zone)) != spend.HourOf(start) {
		t.Error("the zone of a time changes its hour")
	}
}

func TestDimensionsLeftOutOfTheRollupShareOneRow(t *testing.T) {
	keep := Config{RollupDimensions: []string{"model"}}.keep()
	m := newOpenMap(100, keep, 0)
	for i := range 6 {
		u := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "k", Model: fmt.Sprint("m", i%2), Endpoint: fmt.Sprint("e", i)}}
		if _, err := m.addUpdate(&u, 0); err != nil {
			t.Fatal(err)
		}
	}
	_, shards := sealed(m, newSealer(1, 100))
	if len(shards[0][0].rollups) != 2 {
		t.Fatalf("%d rows, want one for each model", len(shards[0][0].rollups))
	}
	for _, row := range shards[0][0].rollups {
		s := row.Series()
		if s.Endpoint != "" || s.Model == "" || row.Key != s.Key() || row.Counters.Spend != spend.Dollars(3) {
			t.Errorf("row %+v of %+v", row, s)
		}
	}
}

func TestOrderAndRepetitionOfTagsMakeOneRow(t *testing.T) {
	var updates []spend.Update
	for _, tags := range [][]string{{"c", "b", "a"}, {"a", "a", "b", "c", "c"}} {
		updates = append(updates, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{Tags: tags}})
	}
	rows := sealUpdates(t, updates, 0)
	if len(rows.rollups) != 1 || len(rows.totals) != 3 || rows.totals[0].Counters.Spend != spend.Dollars(2) {
		t.Errorf("%d rollup rows and totals %+v; want 1 row, and 3 tags of 2 dollars", len(rows.rollups), rows.totals)
	}
}
