// Package redislink says which go-redis clients will do for queues and locks.
package redislink

import (
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrClient is wrapped where the options of a client won't do.
var ErrClient = errors.New("the Redis client can't be used as it is set up")

// What a client may be set to. It is compared with what go-redis makes of the options: 0 has become
// a default of its own, and -1 is "none".
const (
	maxRetries  = 3 // go-redis's own default; the engine tries again by itself, and knows when
	minPool     = 4 // a push, a read, the renewal of a lock and a scrape, at once
	minTimeout  = 100 * time.Millisecond
	maxTimeout  = 10 * time.Minute
	minRedirect = 1
)

// Check returns an error that wraps ErrClient and names every option of the client that won't do,
// with what is allowed, or nil. It doesn't talk to Redis.
func Check(client redis.UniversalClient) error {
	var f faults
	switch c := client.(type) {
	case nil:
		f.add("it is nil; a *redis.Client or *redis.ClusterClient is needed")
	case interface{ Options() *redis.Options }:
		f.checkClient(c.Options())
	case interface{ Options() *redis.ClusterOptions }:
		f.checkCluster(c.Options())
	default:
		f.add("it is a %T; allowed are *redis.Client, *redis.ClusterClient, and what embeds one. A Ring moves keys to other servers "+
			"when one is away, and of other types the options can't be seen", client)
	}
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrClient, errors.Join(f...))
}

type faults []error

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

func (f *faults) checkClient(o *redis.Options) {
	f.checkCommon(common{o.ContextTimeoutEnabled, o.Protocol, o.MaxRetries, o.PoolSize, o.MaxActiveConns,
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout})
	if o.ClientSideCache != nil || o.ClientSideCacheConfig != nil {
		f.add("ClientSideCache or ClientSideCacheConfig: is set; allowed is nil, for what others have published would be read late")
	}
}

func (f *faults) checkCluster(o *redis.ClusterOptions) {
	f.checkCommon(common{o.ContextTimeoutEnabled, o.Protocol, o.MaxRetries, o.PoolSize, o.MaxActiveConns,
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout})
	const lags = "%s: true; allowed is false, for a replica may lag behind its master"
	if o.RouteByLatency {
		f.add(lags, "RouteByLatency")
	}
	if o.RouteRandomly {
		f.add(lags, "RouteRandomly")
	}
	if o.ReadOnly && !o.RouteByLatency && !o.RouteRandomly { // which imply it
		f.add(lags, "ReadOnly")
	}
	if o.MaxRedirects < minRedirect {
		f.add("MaxRedirects: none; allowed are %d and more, for slots move", minRedirect)
	}
}

// common are the options that all clients have.
type common struct {
	contextTimeout                         bool
	protocol, retries, poolSize, maxActive int
	dialTimeout, readTimeout, sendTimeout  time.Duration
}

func (f *faults) checkCommon(o common) {
	if !o.contextTimeout {
		f.add("ContextTimeoutEnabled: false; allowed is true, for calls must end when their context does")
	}
	if o.protocol != 0 && o.protocol != 2 && o.protocol != 3 {
		f.add("Protocol: %d; allowed are 2 and 3", o.protocol)
	}
	if o.retries > maxRetries {
		f.add("MaxRetries: %d; allowed are -1 to %d, for what fails is tried again by the pipeline, and a lock doesn't wait so long",
			o.retries, maxRetries)
	}
	if o.poolSize < minPool {
		f.add("PoolSize: %d; allowed are %d and more: a push, a read, the renewal of a lock and a scrape go on at once", o.poolSize, minPool)
	}
	if o.maxActive > 0 && o.maxActive < minPool {
		f.add("MaxActiveConns: %d; allowed are 0 (no bound), and %d and more", o.maxActive, minPool)
	}
	for _, t := range []struct {
		name  string
		value time.Duration
	}{{"DialTimeout", o.dialTimeout}, {"ReadTimeout", o.readTimeout}, {"WriteTimeout", o.sendTimeout}} {
		switch {
		case t.value <= 0:
			f.add("%s: none; allowed are %s to %s, for a call to a server that hangs must end", t.name, minTimeout, maxTimeout)
		case t.value < minTimeout || t.value > maxTimeout:
			f.add("%s: %s; allowed are %s to %s", t.name, t.value, minTimeout, maxTimeout)
		}
	}
}
