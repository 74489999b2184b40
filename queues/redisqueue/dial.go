package redisqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// What a client has that Dial makes, unless the URL says otherwise. A process needs a connection
// for each call under way: a push or two, a read, a renewal of a lock, a scrape. With 100 processes
// Redis has far fewer than the 10,000 connections that it takes by default.
const (
	clientName  = "spendflush"
	poolSize    = 10               // connections; no more are made, callers wait
	maxIdle     = 4                // of them kept open without use
	dialTimeout = 3 * time.Second  // also for TLS
	poolTimeout = 3 * time.Second  // to wait for a connection
	readTimeout = 10 * time.Second // for a reply, all of it
	sendTimeout = 30 * time.Second // for a command, all of it: batches may be large and the network slow
	retries     = 1                // the engine tries again by itself, and knows when
)

// ErrURL is wrapped by the errors of Dial and DialTLS.
var ErrURL = errors.New("bad Redis URL")

// ErrSentinel is wrapped by the errors of calls on a client whose URL leads to a Redis Sentinel
// without saying so.
var ErrSentinel = errors.New("this is a Redis Sentinel, not a Redis: name the master in the URL, " +
	"redis://host:26379,host:26379/0?master_name=NAME")

// Dial returns a client that suits Redis and package redislock: it obeys the deadlines of contexts,
// doesn't repeat for long, and has a bounded pool. It doesn't connect; that is done when the client
// is used, and again when the connection is lost. The URLs are:
//
//	redis://[[user]:password@]host[:port][/database]   or rediss:// for TLS
//	unix://[[user]:password@]/path/of/socket[?db=database]
//	redis://[[user]:password@]host:port,host:port,...  a cluster, known by some of its nodes
//	redis://[[user]:password@]host:port?cluster=true   a cluster, known by one address
//	redis+sentinel://[[user]:password@]host:port,host:port,.../NAME[/database]
//	redis://host:port,host:port,.../[database]?master_name=NAME
//
// The last two lead to the master that the sentinels at these addresses name; all sentinels should
// be given. With redis+sentinel (or redis-sentinel; rediss+sentinel and rediss-sentinel for TLS)
// user and password are those of Redis, and the options sentinel_username and sentinel_password are
// those of the sentinels. The form with master_name is that of redis.ParseFailoverURL: user and
// password before the hosts are the sentinels', and the options username and password are those of
// Redis. More hosts may also be given by options, as in ?addr=host:port.
//
// Options of go-redis may follow as in redis.ParseURL, redis.ParseClusterURL and
// redis.ParseFailoverURL, such as ?pool_size=20&read_timeout=5s. Options for TLS are tls_ca_file,
// tls_cert_file, tls_key_file, tls_server_name, and skip_verify=true, which takes any certificate.
// Characters of user and password that mean something in a URL must be percent-encoded. The error
// wraps ErrURL and never holds a password.
//
// A client of a cluster or of sentinels learns of another master within about a second of its
// taking over, also when the old one hangs, and ends the connections to a node that is no master
// any more.
func Dial(rawURL string) (redis.UniversalClient, error) { return DialTLS(rawURL, TLS{}) }

// DialTLS is Dial with more to say about TLS. What the URL says wins. The error also wraps ErrURL
// if a file can't be read, or if the URL doesn't ask for TLS.
func DialTLS(rawURL string, t TLS) (redis.UniversalClient, error) {
	to, err := parseTarget(rawURL)
	if err != nil {
		return nil, err
	}
	config, err := to.tlsConfig(t)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrURL, err)
	}

	switch to.kind {
	case aCluster:
		o, err := redis.ParseClusterURL(to.url.String())
		if err != nil {
			return nil, to.refused(err)
		}
		o.TLSConfig = config
		setClusterDefaults(o)
		return newCluster(o), nil
	case sentinels:
		o, err := redis.ParseFailoverURL(to.url.String())
		if err != nil {
			return nil, to.refused(err)
		}
		o.TLSConfig = config
		return newFailover(o), nil
	default:
		o, err := redis.ParseURL(to.url.String())
		if err != nil {
			return nil, to.refused(err)
		}
		o.TLSConfig = config
		o.OnConnect = greet(cmp.Or(o.ClientName, clientName), false)
		setDefaults(o)
		return redis.NewClient(o), nil
	}
}

func setDefaults(o *redis.Options) {
	o.ClientName = ""
	tunables{
		&o.PoolSize, &o.MaxActiveConns, &o.MaxIdleConns, &o.MaxRetries, &o.DialerRetries, &o.PipelinePoolSize,
		&o.DialTimeout, &o.PoolTimeout, &o.ReadTimeout, &o.WriteTimeout,
	}.setDefaults()
	o.ContextTimeoutEnabled = true
	o.DisableIdentity = true // a user needs one right less
	// Else a server could make timeouts longer than the lock is trusted.
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	if o.Dialer == nil {
		o.Dialer = dialer(o.DialTimeout, o.TLSConfig)
	}
}

func setClusterDefaults(o *redis.ClusterOptions) {
	o.OnConnect = greet(cmp.Or(o.ClientName, clientName), false)
	o.ClientName = ""
	tunables{ // of each node
		&o.PoolSize, &o.MaxActiveConns, &o.MaxIdleConns, &o.MaxRetries, &o.DialerRetries, &o.PipelinePoolSize,
		&o.DialTimeout, &o.PoolTimeout, &o.ReadTimeout, &o.WriteTimeout,
	}.setDefaults()
	o.ContextTimeoutEnabled = true
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// tunables are the options that have defaults of ours, wherever they lie.
type tunables struct {
	poolSize, maxActive, maxIdle, retries, dialerRetries, pipelines *int
	dial, pool, read, write                                         *time.Duration
}

func (t tunables) setDefaults() {
	orDefault(t.poolSize, poolSize)
	orDefault(t.maxActive, *t.poolSize)
	orDefault(t.maxIdle, min(maxIdle, *t.poolSize))
	orDefault(t.retries, retries)
	orDefault(t.dialerRetries, 1)
	orDefault(t.pipelines, -1) // nothing here is a pipeline
	orDefault(t.dial, dialTimeout)
	orDefault(t.pool, poolTimeout)
	orDefault(t.read, readTimeout)
	orDefault(t.write, sendTimeout)
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// greet returns a hook for new connections. It shows the name in CLIENT LIST; by itself go-redis
// would give up a connection whose user may not do that. And it asks the server for its role: a
// sentinel isn't taken for a Redis, and a replica not for a master where only masters will do. What
// the user may not ask is left open.
func greet(name string, mastersOnly bool) func(context.Context, *redis.Conn) error {
	return func(ctx context.Context, conn *redis.Conn) error {
		if err := conn.ClientSetName(ctx, name).Err(); err != nil && !isRefusal(err) {
			return err
		}

		role, err := conn.Do(ctx, "role").Slice()
		if err != nil && !isRefusal(err) {
			return err
		}
		if len(role) == 0 {
			return nil
		}
		switch is, _ := role[0].(string); {
		case is == "sentinel":
			return ErrSentinel
		case mastersOnly && is == "slave":
			return errReplica
		}
		return nil
	}
}

var errReplica = errors.New("the sentinels name a replica as master: they haven't ended their failover")

// isRefusal says whether the server has answered that it doesn't do this.
func isRefusal(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}
