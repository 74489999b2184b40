package integration

import (
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// affected chooses which places a fault of the network is about: the lock holder's, any one, or
// all.
func (x *rig) affected() (places []*place, whose string) {
	switch x.rng.IntN(3) {
	case 0:
		if r := x.holder(); r != nil {
			return []*place{r.place}, "the lock holder's"
		}
		return x.places, "all"
	case 1:
		p := x.places[x.rng.IntN(len(x.places))]
		return []*place{p}, p.run.Load().name + "'s"
	default:
		return x.places, "all"
	}
}

// affectedProxies chooses proxies: of some places, to one server or to both.
func (x *rig) affectedProxies() (proxies []*faultproxy.Proxy, whose string) {
	places, whose := x.affected()
	side := x.rng.IntN(3)
	switch {
	case x.single == nil:
		side = 1
	case x.couple != nil:
		side = 0
	}
	for _, p := range places {
		if side != 0 {
			proxies = append(proxies, p.postgres)
		}
		if side != 1 {
			proxies = append(proxies, p.redis)
		}
	}
	return proxies, whose + [...]string{" to Redis", " to Postgres", " to both"}[side]
}

// repliesLost lets a server get requests of a kind, and nobody get the replies.
type repliesLost struct {
	to      string // COMMIT, push or ack
	proxies []*faultproxy.Proxy
	before  int
}

func (f *repliesLost) begin(x *rig) {
	text := "COMMIT\x00" // a statement of its own, not READ COMMITTED
	if f.to != "COMMIT" {
		text = x.scriptHash(f.to)
	}
	for _, p := range x.places {
		proxy := p.redis
		if f.to == "COMMIT" {
			proxy = p.postgres
		}
		f.proxies = append(f.proxies, proxy)
		f.before += proxy.Cut()
		proxy.CutReplies(text, 1+x.rng.IntN(4))
	}
	x.note("the next replies to %s are lost", f.to)
}

// scriptHash returns what the queue's script is called by.
func (x *rig) scriptHash(name string) string {
	x.t.Helper()
	source := fmt.Sprintf("local LARGEST = %d\n", redisqueue.MaxBatchBytes)
	for _, part := range []string{"entry", name} {
		text, err := os.ReadFile("../queues/redisqueue/" + part + ".lua")
		x.try("read the script", err)
		source += string(text)
	}
	return redis.NewScript(source).Hash()
}

// checkScripts fails if Redis was never asked for the scripts whose replies faults cut off.
func (x *rig) checkScripts() {
	x.t.Helper()
	if x.single == nil {
		return
	}
	for _, name := range []string{"push", "ack"} {
		if known, err := x.single.ScriptExists(x.t.Context(), x.scriptHash(name)).Result(); err != nil || !known[0] {
			x.t.Errorf("no instance has called the script %s as it is known here: no reply to it was lost (%v)", name, err)
		}
	}
}

func (f *repliesLost) end(x *rig) {
	after := 0
	for _, p := range f.proxies {
		p.CutReplies("", 0)
		after += p.Cut()
	}
	x.note("%d replies to %s were lost", after-f.before, f.to)
	x.lostReplies[f.to] += after - f.before
}

// networkSlow holds every piece back for a while.
type networkSlow struct{ proxies []*faultproxy.Proxy }

func (f *networkSlow) begin(x *rig) {
	var whose string
	f.proxies, whose = x.affectedProxies()
	d := time.Duration(5+x.rng.IntN(95)) * time.Millisecond
	x.note("network slow, by %s: %s", d, whose)
	for _, p := range f.proxies {
		p.Delay(d)
	}
}

func (f *networkSlow) end(*rig) {
	for _, p := range f.proxies {
		p.Delay(0)
	}
}

// connectionsDropped closes all connections, at the beginning and at the end.
type connectionsDropped struct{ proxies []*faultproxy.Proxy }

func (f *connectionsDropped) begin(x *rig) {
	var whose string
	f.proxies, whose = x.affectedProxies()
	x.note("connections dropped: %s", whose)
	f.end(x)
}

func (f *connectionsDropped) end(*rig) {
	for _, p := range f.proxies {
		p.Drop()
	}
}

// connectionsRefused closes all connections and lets none be made.
type connectionsRefused struct{ proxies []*faultproxy.Proxy }

func (f *connectionsRefused) begin(x *rig) {
	var whose string
	f.proxies, whose = x.affectedProxies()
	x.note("connections refused: %s", whose)
	for _, p := range f.proxies {
		p.Refuse(true)
	}
}

func (f *connectionsRefused) end(*rig) {
	for _, p := range f.proxies {
		p.Refuse(false)
	}
}

// networkSilent passes nothing on and closes nothing: half-open connections, as a cut network
// leaves them.
type networkSilent struct{ proxies []*faultproxy.Proxy }

func (f *networkSilent) begin(x *rig) {
	var whose string
	f.proxies, whose = x.affectedProxies()
	x.note("network silent: %s", whose)
	for _, p := range f.proxies {
		p.Silence(true)
	}
}

func (f *networkSilent) end(x *rig) {
	// Some connections get on, some are gone when the network is back.
	drop := x.rng.IntN(2) == 0
	for _, p := range f.proxies {
		if drop {
			p.Drop()
		}
		p.Silence(false)
	}
}
