package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tortureOptions say how long and in which order.
type tortureOptions struct {
	seed     uint64
	duration time.Duration // of the time in which faults begin
	long     bool
	only     []string // names of the faults to apply; none: all
	where    topology
	test     string
}

// tortureFromEnvironment reads TORTURE_SECONDS, TORTURE_SEED and TORTURE_FAULTS, which has names of
// faults with commas. Without the first the run is a short one, without the second the seed is a
// new one each time, without the third all faults are applied.
func tortureFromEnvironment(t *testing.T) tortureOptions {
	o := tortureOptions{seed: rand.Uint64N(1_000_000), duration: 20 * time.Second, test: t.Name(), where: aloneServers}
	if text := os.Getenv("TORTURE_SECONDS"); text != "" {
		seconds, err := strconv.Atoi(text)
		if err != nil || seconds < 1 {
			t.Fatalf("TORTURE_SECONDS: %q is not a number of seconds", text)
		}
		o.duration, o.long = time.Duration(seconds)*time.Second, true
	}
	if text := os.Getenv("TORTURE_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("TORTURE_SEED: %q is not a number", text)
		}
		o.seed = seed
	}
	if text := os.Getenv("TORTURE_FAULTS"); text != "" {
		o.only = strings.Split(text, ",")
		for _, name := range o.only {
			if !slices.ContainsFunc(faultKinds, func(k faultKind) bool { return k.name == name }) {
				t.Fatalf("TORTURE_FAULTS: there is no fault %q", name)
			}
		}
	}
	return o
}

// command is what runs the same schedule again.
func (o tortureOptions) command() string {
	seconds := ""
	if o.long {
		seconds = fmt.Sprintf("TORTURE_SECONDS=%d ", int(o.duration.Seconds()))
	}
	if len(o.only) > 0 {
		seconds += fmt.Sprintf("TORTURE_FAULTS='%s' ", strings.Join(o.only, ","))
	}
	return fmt.Sprintf("%sTORTURE_SEED=%d go test -C integration -race -tags torture -run '^%s$' -count=1 -v -timeout 60m", seconds, o.seed, o.test)
}

// TestTorture lets five instances take updates over HTTP while everything around them breaks, one
// to three things at a time, in an order that only the seed knows, and compares the books at the
// end.
//
//	fault                        what is done                                               what may be lost
//	instance killed              kill -9 of any; a new producer in its place                its open map
//	lock holder killed           kill -9 with a transaction of it open, where one is met    its open map
//	lock holder paused           SIGSTOP past the TTL, another one goes on, SIGCONT         nothing
//	all instances killed         kill -9 of all; what they had queued is flushed by others  their open maps
//	instance restarted           SIGTERM under load, with or without telling clients first  nothing
//	Redis killed                 kill -9 and a new start with the append-only file          nothing
//	Redis killed, data lost      kill -9 and an empty start                                 what ended runs had queued
//	FLUSHALL                     up to four, while batches are in the queue                 what ended runs had queued
//	gap left behind              FLUSHALL, then kill -9 before what was lost is sent again  what it had queued
//	lock deleted                 DEL of the lock every 100 ms, Postgres slow for all        nothing
//	Redis out of memory          maxmemory 1 with noeviction                                nothing
//	Redis read-only              REPLICAOF a dead address, then NO ONE                      nothing
//	Redis without replicas       min-replicas-to-write 1                                    nothing
//	Redis loading                a restart that has 400,000 commands to read first         nothing
//	Redis paused                 SIGSTOP, SIGCONT                                           nothing
//	Postgres killed              kill -9 of all its processes, crash recovery               nothing
//	Postgres restarted           a fast shutdown under load                                 nothing
//	Postgres out of connections  every one of them held by another client                    nothing
//	Postgres read-only           default_transaction_read_only, and errors as of a standby  nothing
//	statement timeout            of a millisecond, for the whole database                   nothing
//	table locked                 ACCESS EXCLUSIVE on one of the books, up to 20 s (60 s)    nothing
//	backends terminated          pg_terminate_backend of all sessions, six times            nothing
//	disk full                    tmpfs filled, log segments used up: panics (needs mount)   nothing
//	replies to COMMIT lost       the proxy passes COMMIT on and closes the connection       nothing
//	replies to push lost         the same with the script that adds to the queue            nothing
//	replies to ack lost          the same with the script that takes out of the queue       nothing
//	network slow                 5 to 100 ms for each piece                                 nothing
//	connections dropped          all closed                                                 nothing
//	connections refused          all closed, new ones too                                   nothing
//	network silent               half-open: nothing passes and nothing is closed            nothing
//
// TORTURE_SECONDS, TORTURE_SEED and TORTURE_FAULTS say how long, in which order and which; make
// torture is the long form.
//
// The faults of the network are about one instance (perhaps the lock holder) or all, on their way
// to Redis, to Postgres or to both.
//
// The books must lie between what clients were told and what they sent, for every run of an
// instance and every level of acknowledgement on its own: see checkRun.
func TestTorture(t *testing.T) {
	t.Parallel()
	torture(t, aloneServers, 5)
}

// torture is TestTorture on a topology.
func torture(t *testing.T, where topology, instances int) {
	t.Helper()
	o := tortureFromEnvironment(t)
	o.where = where
	x := newRig(t, o, instances)
	x.startWatch()
	x.startTraffic()
	deck := newDeck(x)
	for n, start := 1, time.Now(); time.Since(start) < x.options.duration; n++ {
		if n == 1 && len(x.options.only) == 0 {
			x.round(n, deck.take("lock holder killed")) // on its own, so that the next commit is timed in the short form too
			continue
		}
		x.round(n, deck.deal(1+x.rng.IntN(3))...)
	}
	x.finish()
	x.printTable()
	t.Logf("the next commit after a lock holder was lost (TTL %s): %s", tortureTTL, distribution(x.takeover))
	t.Logf("lock holders killed in the middle of a flush: %d, at other times: %d; replies lost: %v", x.midFlush[0], x.midFlush[1], x.lostReplies)
}

// TestTortureRollingRestarts stops and starts instances in turn under load, 50 starts in the long
// form and 8 in the short one. Nothing may be lost but requests that no instance took.
func TestTortureRollingRestarts(t *testing.T) {
	t.Parallel()
	x := newRig(t, tortureFromEnvironment(t), 3)
	x.startWatch()
	x.startTraffic()
	starts := 8
	if x.options.long {
		starts = 50
	}
	var took []time.Duration
	for n := range starts {
		p := x.places[n%len(x.places)]
		old, announced := p.run.Load(), x.rng.IntN(2) == 0
		start := time.Now()
		x.askToStop(old, announced)
		x.awaitStop(old)
		stopped := time.Since(start)
		took = append(took, stopped)
		fresh := x.start(p)
		x.awaitReady(fresh)
		x.note("%s stopped after %s (clients knew: %t), %s ready after %s", old.name, stopped.Round(time.Millisecond), announced,
			fresh.name, (time.Since(start) - stopped).Round(time.Millisecond))
	}
	x.finish()
	t.Logf("%d restarts; from SIGTERM to the end: %s", starts, distribution(took))
}

// deck deals the kinds of faults in the order of the seed, each once before any comes again.
type deck struct {
	rng   *rand.Rand
	kinds []*faultKind
	left  []*faultKind
}

// newDeck leaves out what isn't wanted or can't be applied here.

func newDeck(x *rig) *deck {
	d := &deck{rng: x.rng}
	for i := range faultKinds {
		kind := &faultKinds[i]
		wanted := len(x.options.only) == 0 || slices.Contains(x.options.only, kind.name)
		if wanted && kind.fits(x.options.where) && (kind.lacks == nil || kind.lacks(x) == nil) {
			d.kinds = append(d.kinds, kind)
		}
	}
	return d
}

// deal returns the next kinds, n if there are so many that break something else each.
func (d *deck) deal(n int) (kinds []*faultKind) {
	for dealt := false; len(kinds) < n; {
		i := slices.IndexFunc(d.left, func(next *faultKind) bool {
			return !slices.ContainsFunc(kinds, next.clashes)
		})
		if i < 0 {
			if dealt {
				break // all that is left breaks the same
			}
			dealt = true
			for _, i := range d.rng.Perm(len(d.kinds)) {
				d.left = append(d.left, d.kinds[i])
			}
			continue
		}
		kinds = append(kinds, d.left[i])
		d.left = slices.Delete(d.left, i, i+1)
	}
	return kinds
}

// take returns the kind of that name.
func (d *deck) take(name string) *faultKind {
	return d.kinds[slices.IndexFunc(d.kinds, func(k *faultKind) bool { return k.name == name })]
}

// round applies faults so that they overlap, heals them and waits until all is well again.
func (x *rig) round(number int, kinds ...*faultKind) {
	x.alone = len(kinds) == 1
	names := make([]string, len(kinds))
	for i, kind := range kinds {
		names[i] = kind.name
	}
	x.note("round %d: %s", number, strings.Join(names, "; "))
	before := x.warnings()
	var faults []fault
	for _, kind := range kinds {
		hold := kind.hold
		if hold == nil {
			hold = briefly
		}
		f := kind.fresh()
		f.begin(x)
		faults = append(faults, f)
		x.tallyOf(kind).applied++
		time.Sleep(hold(x.rng, x.options.long)) // this is how long the fault lasts
	}
	for _, i := range x.rng.Perm(len(faults)) {
		faults[i].end(x)
	}
	took := x.recover()
	x.note("all is well again after %s", took.Round(time.Millisecond))
	for _, kind := range kinds {
		n := x.tallyOf(kind)
		n.warnings += x.warnings() - before
		if x.alone {
			n.recovery = append(n.recovery, took)
		}
	}
}

// recoveryPatience bounds how long all may take to be well again. It is long because the machine
// may be busy.
const recoveryPatience = 90 * time.Second

// recover waits until every instance is ready and everything that was sealed when the faults had
// ended is committed, and returns how long that took.
func (x *rig) recover() time.Duration {
	x.t.Helper()
	start := time.Now()
	for _, p := range x.places {
		r := p.run.Load()
		if !r.running() {
			x.t.Fatalf("%s has ended by itself, with exit status %d", r.name, r.cmd.ProcessState.ExitCode())
		}
		x.awaitReady(r)
		x.awaitConfirmed(r)
	}
	took := time.Since(start)
	x.noteSettled()
	x.awaitFewConnections()
	return took
}

func (x *rig) awaitReady(r *podRun) {
	x.t.Helper()
	x.await(r.name+" is ready", recoveryPatience, func() string {
		status, body, err := r.stack.do(http.MethodGet, r.url+"/readyz", "", nil)
		if err == nil && status == http.StatusOK {
			return ""
		}
		if !r.running() {
			x.t.Fatalf("%s ended before it was ready", r.name)
		}
		return fmt.Sprintf("%d %.200s %v", status, body, err)
	})
}

// awaitConfirmed waits until all that the run has sealed by now is in Postgres. What Redis has lost
// until now can't matter to it any more then.
func (x *rig) awaitConfirmed(r *podRun) {
	x.t.Helper()
	var sealed []uint64
	x.await(r.name+" is confirmed", recoveryPatience, func() string {
		s, err := r.status(x.shards)
		if err != nil {
			return err.Error()
		}
		if sealed == nil {
			for _, now := range s.Shards {
				sealed = append(sealed, now.Sealed)
			}
		}
		for shard, now := range s.Shards {
			if now.Confirmed < sealed[shard] || now.Fallback {
				return fmt.Sprintf("shard %d: %d of %d batches; direct path in use: %t", shard, now.Confirmed, sealed[shard], now.Fallback)
			}
		}
		return ""
	})
	r.exposed = false
}
