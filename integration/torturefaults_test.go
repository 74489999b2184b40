package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// fault is something that breaks and is healed again. Both methods run on the test's goroutine.
type fault interface {
	begin(x *rig)
	end(x *rig)
}

// What a fault breaks. Two that break the same aren't applied at the same time.
const (
	ofInstances = "instances"
	ofRedis     = "Redis"
	ofPostgres  = "Postgres"
	ofNetwork   = "network"
)

// faultKind is a row of the table of faults.
type faultKind struct {
	name  string
	of    string
	fresh func() fault
	hold  func(rng *rand.Rand, long bool) time.Duration // how long it lasts; nil: briefly
	lacks func(x *rig) error                            // says why it can't be applied here; nil: it can
	on    []topology                                    // where there is what it breaks; nil: see fits
}

// faultKinds are all faults that there are. See TestTorture for what each of them is.
var faultKinds = []faultKind{
	{name: "instance killed", of: ofInstances, fresh: func() fault { return &instanceKilled{} }},
	{name: "lock holder killed", of: ofInstances, fresh: func() fault { return &holderKilled{} }},
	{name: "lock holder paused", of: ofInstances, fresh: func() fault { return &holderPaused{} }, hold: pastTTL},
	{name: "all instances killed", of: ofInstances, fresh: func() fault { return &allKilled{} }},
	{name: "instance restarted", of: ofInstances, fresh: func() fault { return &instanceRestarted{} }},

	{name: "Redis killed", of: ofRedis, fresh: func() fault { return &redisKilled{} }},
	{name: "Redis killed, data lost", of: ofRedis, fresh: func() fault { return &redisKilled{empty: true} }},
	{name: "FLUSHALL", of: ofRedis, fresh: func() fault { return &redisFlushed{} }},
	{name: "gap left behind", of: ofInstances + ", " + ofRedis, fresh: func() fault { return &gapLeft{} }},
	{name: "lock deleted", of: ofRedis + ", " + ofNetwork, fresh: func() fault { return &lockDeleted{} }},
	{name: "Redis out of memory", of: ofRedis, fresh: func() fault { return &redisConfig{"maxmemory", "1", "0"} }},
	{name: "Redis read-only", of: ofRedis, fresh: func() fault { return &redisReadOnly{} }},
	{name: "Redis without replicas", of: ofRedis, fresh: func() fault { return &redisConfig{"min-replicas-to-write", "1", "0"} }},
	{name: "Redis loading", of: ofRedis, fresh: func() fault { return &redisLoading{} }},
	{name: "Redis paused", of: ofRedis, fresh: func() fault { return &redisPaused{} }},

	{name: "Postgres killed", of: ofPostgres, fresh: func() fault { return &postgresKilled{} }},
	{name: "Postgres restarted", of: ofPostgres, fresh: func() fault { return &postgresRestarted{} }},
	{name: "Postgres out of connections", of: ofPostgres, fresh: func() fault { return &postgresFull{} }},
	{name: "Postgres read-only", of: ofPostgres, fresh: func() fault { return &postgresReadOnly{} }},
	{name: "statement timeout", of: ofPostgres, fresh: func() fault { return &statementTimeout{} }},
	{name: "table locked", of: ofPostgres, fresh: func() fault { return &tableLocked{} }, hold: forLocks},
	{name: "backends terminated", of: ofPostgres, fresh: func() fault { return &backendsTerminated{} }},
	{name: "disk full", of: ofPostgres, fresh: func() fault { return &diskFull{} }, lacks: func(x *rig) error { return x.noDisk }},

	{name: "replies to COMMIT lost", of: ofNetwork, fresh: func() fault { return &repliesLost{to: "COMMIT"} }},
	{name: "replies to push lost", of: ofNetwork, fresh: func() fault { return &repliesLost{to: "push"} }},
	{name: "replies to ack lost", of: ofNetwork, fresh: func() fault { return &repliesLost{to: "ack"} }},
	{name: "network slow", of: ofNetwork, fresh: func() fault { return &networkSlow{} }},
	{name: "connections dropped", of: ofNetwork, fresh: func() fault { return &connectionsDropped{} }},
	{name: "connections refused", of: ofNetwork, fresh: func() fault { return &connectionsRefused{} }},
	{name: "network silent", of: ofNetwork, fresh: func() fault { return &networkSilent{} }},
}

func init() { faultKinds = append(faultKinds, placeFaults...) }

// clashes says whether the two break the same.
func (k *faultKind) clashes(other *faultKind) bool {
	for of := range strings.SplitSeq(k.of, ", ") {
		if strings.Contains(other.of, of) {
			return true
		}
	}
	return false
}

func briefly(rng *rand.Rand, long bool) time.Duration {
	most := time.Second
	if long {
		most = 2500 * time.Millisecond
	}
	return 200*time.Millisecond + time.Duration(rng.Int64N(int64(most)))
}

// pastTTL is longer than the lock lasts, and than Postgres keeps a transaction open whose client
// has stopped (2s).
func pastTTL(rng *rand.Rand, _ bool) time.Duration {
	return tortureTTL + 1200*time.Millisecond + time.Duration(rng.Int64N(int64(time.Second)))
}

// forLocks is mostly short, and now and then longer than a flush waits for a row.
func forLocks(rng *rand.Rand, long bool) time.Duration {
	most := 20 * time.Second
	if long {
		most = 60 * time.Second
	}
	part := rng.Float64()
	return time.Second + time.Duration(part*part*part*float64(most-time.Second))
}

// tally is what is known of a fault at the end.
type tally struct {
	applied  int
	warnings int             // lines that instances logged as warnings or errors meanwhile
	recovery []time.Duration // until all that was sealed when it had ended was committed; if it was alone
}

func (x *rig) tallyOf(kind *faultKind) *tally {
	if x.tally[kind.name] == nil {
		x.tally[kind.name] = &tally{}
	}
	return x.tally[kind.name]
}

// printTable prints how often each fault was applied, and what came of it.
func (x *rig) printTable() {
	var table strings.Builder
	fmt.Fprintf(&table, "%-28s %-16s %7s %8s   %s\n", "fault", "of", "applied", "warnings", "recovered after (alone): median, most")
	for i := range faultKinds {
		kind := &faultKinds[i]
		if !kind.fits(x.options.where) {
			continue
		}
		if kind.lacks != nil && kind.lacks(x) != nil {
			fmt.Fprintf(&table, "%-28s %-16s NOT APPLIED: %v\n", kind.name, kind.of, kind.lacks(x))
			continue
		}
		n := x.tallyOf(kind)
		fmt.Fprintf(&table, "%-28s %-16s %7d %8d   %s\n", kind.name, kind.of, n.applied, n.warnings, distribution(n.recovery))
	}
	x.t.Logf("faults:\n%s", table.String())
}

// distribution says what there is to say of some durations.
func distribution(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[int(q*float64(len(all)-1))].Round(time.Millisecond) }
	return fmt.Sprintf("%s, %s (of %d)", at(0.5), at(1), len(all))
}

// instanceKilled is kill -9 of any instance; another one, a new producer, comes in its place.
type instanceKilled struct{ victim *podRun }

func (f *instanceKilled) begin(x *rig) {
	f.victim = x.anyRun()
	x.note("kill -9 %s", f.victim.name)
	x.kill(f.victim)
}

func (f *instanceKilled) end(x *rig) { x.start(f.victim.place) }

// holderKilled is kill -9 of the lock holder, while it has written in a transaction if it can be
// met there.
type holderKilled struct{ instanceKilled }

func (f *holderKilled) begin(x *rig) {
	f.victim = x.meetHolder()
	inFlush := x.meetFlush(f.victim)
	x.kill(f.victim)
	x.note("kill -9 %s, the lock holder; in the middle of a flush: %t", f.victim.name, inFlush)
	if inFlush {
		x.midFlush[0]++
	} else {
		x.midFlush[1]++
	}
	x.measureTakeover()
}

// meetHolder waits until somebody holds the lock. If nobody does for long (Redis is away), it
// returns any instance.
func (x *rig) meetHolder() *podRun {
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if r := x.holder(); r != nil {
			return r
		}
	}
	x.note("nobody holds the lock")
	return x.anyRun()
}

// meetFlush waits until a transaction of the run has written something, for some seconds at most.
// Its way to Postgres is slow meanwhile, so that there is something to meet.
func (x *rig) meetFlush(r *podRun) (met bool) {
	r.place.slowPostgres(20 * time.Millisecond)
	defer r.place.slowPostgres(0)
	_ = x.database(func(ctx context.Context, conn *pgx.Conn) error { // no matter: Postgres may be away
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		for ctx.Err() == nil && !met {
			err := conn.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_stat_activity
				WHERE application_name = $1 AND backend_xid IS NOT NULL`, r.name).Scan(&met)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return met
}

// measureTakeover waits until another instance has committed something from the queue. That is due
// within the TTL and a second; what is asserted is more, because the machine may be busy.
func (x *rig) measureTakeover() {
	x.t.Helper()
	if !x.alone {
		return
	}
	before, start := x.committedByQueue(), time.Now()
	if len(x.alive()) == 0 {
		return
	}
	x.await("another instance commits from the queue", tortureTTL+10*time.Second, func() string {
		if x.committedByQueue() > before {
			return ""
		}
		return "nothing"
	})
	took := time.Since(start)
	x.takeover = append(x.takeover, took)
	x.note("another instance committed after %s", took.Round(time.Millisecond))
}

// committedByQueue adds up what the instances that clients see have committed from the queue.
func (x *rig) committedByQueue() (batches float64) {
	for _, r := range x.alive() {
		if r.gone.Load() {
			continue
		}
		if m, err := r.scrape(); err == nil {
			batches += m.sum("spendflush_batches_committed_total", `path="queue"`)
		}
	}
	return batches
}

// holderPaused is SIGSTOP of the lock holder until another one holds the lock, and then SIGCONT.
type holderPaused struct{ victim *podRun }

func (f *holderPaused) begin(x *rig) {
	f.victim = x.meetHolder()
	inFlush := x.meetFlush(f.victim)
	x.note("SIGSTOP %s, the lock holder; in the middle of a flush: %t", f.victim.name, inFlush)
	f.victim.gone.Store(true) // clients would only wait
	f.victim.signal(syscall.SIGSTOP)
	x.measureTakeover()
}

func (f *holderPaused) end(*rig) {
	f.victim.signal(syscall.SIGCONT)
	f.victim.gone.Store(false)
}

// allKilled is kill -9 of every instance, as when the power fails. What they had queued the next
// ones commit.
type allKilled struct{}

func (f *allKilled) begin(x *rig) {
	x.note("kill -9 all instances")
	for _, r := range x.alive() {
		x.kill(r)
	}
}

func (f *allKilled) end(x *rig) {
	for _, p := range x.places {
		x.start(p)
	}
}

// instanceRestarted is SIGTERM and a new start, with or without a word to the clients before.
type instanceRestarted struct{ victim *podRun }

func (f *instanceRestarted) begin(x *rig) {
	f.victim = x.anyRun()
	announced := x.rng.IntN(2) == 0
	x.note("SIGTERM %s; clients know: %t", f.victim.name, announced)
	x.askToStop(f.victim, announced)
}

func (f *instanceRestarted) end(x *rig) {
	x.awaitStop(f.victim)
	x.start(f.victim.place)
}
