package queues

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// What a client has that Dial makes, unless the URL says otherwise. A process needs a connection for each call under
// way: a push or two, a read, a renewal of a lock, a scrape. With 100 processes Redis has far fewer than the 10,000
// connections that it takes by default.
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

// ErrURL is wrapped by the errors of Dial.
var ErrURL = errors.New("bad Redis URL")

// Dial returns a client that suits Redis and package lockers' Redis: it obeys the deadlines of contexts, doesn't
// repeat for long, and has a bounded pool. It doesn't connect; that is done when the client is used, and again when the
// connection is lost. The URLs are:
//
//	redis://[[user]:password@]host[:port][/database]   or rediss:// for TLS
//	unix://[[user]:password@]/path/of/socket[?db=database]
//	redis://[[user]:password@]host:port,host:port,...  a cluster, known by some of its nodes
//	redis://[[user]:password@]host:port?cluster=true   a cluster, known by one address
//
// Options of go-redis may follow as in redis.ParseURL, such as ?pool_size=20&read_timeout=5s. Characters of user and
// password that mean something in a URL must be percent-encoded. The error wraps ErrURL and never holds the password.
func Dial(rawURL string) (redis.UniversalClient, error) {
	single, addresses, err := splitHosts(rawURL)
	if err != nil {
		return nil, err
	}
	single, cluster, err := takeCluster(single)
	if err != nil {
		return nil, err
	}
	o, err := redis.ParseURL(single.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrURL, plainReason(single, err))
	}
	setDefaults(o)
	if !cluster && len(addresses) <= 1 {
		return redis.NewClient(o), nil
	}
	if o.DB != 0 {
		return nil, fmt.Errorf("%w: database %d: a cluster has only database 0", ErrURL, o.DB)
	}
	if single.Scheme == "unix" {
		return nil, fmt.Errorf("%w: a cluster can't be reached by unix://", ErrURL)
	}
	return redis.NewClusterClient(clusterOptions(o, addresses)), nil
}

// splitHosts returns the URL with its first host only, and the addresses of all hosts; a socket has none. net/url
// doesn't read a list of hosts.
func splitHosts(rawURL string) (first *url.URL, addresses []string, err error) {
	scheme, rest, found := strings.Cut(rawURL, "://")
	if !found || !slices.Contains([]string{"redis", "rediss", "unix"}, scheme) {
		return nil, nil, fmt.Errorf("%w: it must begin with redis://, rediss:// or unix://", ErrURL)
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	at := strings.LastIndexByte(authority, '@') + 1
	hosts := strings.Split(authority[at:], ",")
	first, err = url.Parse(scheme + "://" + authority[:at] + hosts[0] + rest[end:])
	if err != nil || strings.Count(authority, "@") > 1 || strings.Contains(rest[end:], "@") {
		// The parser's error is not shown: it quotes what it stumbles over, which may be a part of the password.
		return nil, nil, fmt.Errorf("%w: it can't be read; characters such as / ? # @ : %% in user or password must be "+
			"percent-encoded (%%2F and so on)", ErrURL)
	}
	if scheme == "unix" {
		return first, nil, nil
	}
	for _, host := range hosts {
		address, err := hostAddress(host)
		if err != nil {
			return nil, nil, err
		}
		addresses = append(addresses, address)
	}
	return first, addresses, nil
}

func hostAddress(host string) (string, error) {
	bad := fmt.Errorf("%w: hosts must be given as host:port or host:port,host:port, with ports from 1 to 65535", ErrURL)
	u, err := url.Parse("redis://" + host)
	if err != nil || u.Hostname() == "" {
		return "", bad
	}
	port := cmp.Or(u.Port(), "6379")
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", bad
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// takeCluster takes the option out that go-redis doesn't know.
func takeCluster(u *url.URL) (*url.URL, bool, error) {
	query := u.Query()
	text := query.Get("cluster")
	if text == "" {
		return u, false, nil
	}
	cluster, err := strconv.ParseBool(text)
	if err != nil {
		return nil, false, fmt.Errorf("%w: cluster=%s: true and false are allowed", ErrURL, text)
	}
	query.Del("cluster")
	u.RawQuery = query.Encode()
	return u, cluster, nil
}

// plainReason says why go-redis didn't take the URL. What net/url says quotes the URL, so it isn't shown; the rest
// speaks of the database and the options, which aren't secret.
func plainReason(u *url.URL, err error) string {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return "it can't be read"
	}
	reason := strings.TrimPrefix(err.Error(), "redis: ")
	if password, _ := u.User.Password(); password != "" && strings.Contains(reason, password) {
		return "its database or its options can't be read"
	}
	return reason
}

func setDefaults(o *redis.Options) {
	o.OnConnect = nameConnection(cmp.Or(o.ClientName, clientName))
	o.ClientName = ""
	orDefault(&o.PoolSize, poolSize)
	orDefault(&o.MaxActiveConns, o.PoolSize)
	orDefault(&o.MaxIdleConns, min(maxIdle, o.PoolSize))
	orDefault(&o.DialTimeout, dialTimeout)
	orDefault(&o.PoolTimeout, poolTimeout)
	orDefault(&o.ReadTimeout, readTimeout)
	orDefault(&o.WriteTimeout, sendTimeout)
	orDefault(&o.MaxRetries, retries)
	orDefault(&o.DialerRetries, 1)
	orDefault(&o.PipelinePoolSize, -1) // nothing here is a pipeline
	o.ContextTimeoutEnabled = true
	// Else a server could make timeouts longer than the lock is trusted.
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// nameConnection returns a hook that shows the name in CLIENT LIST. By itself go-redis would give up a connection whose
// user may not do that.
func nameConnection(name string) func(context.Context, *redis.Conn) error {
	return func(ctx context.Context, conn *redis.Conn) error {
		err := conn.ClientSetName(ctx, name).Err()
		if _, refused := errors.AsType[redis.Error](err); refused {
			return nil
		}
		return err
	}
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func clusterOptions(o *redis.Options, addresses []string) *redis.ClusterOptions {
	c := &redis.ClusterOptions{
		Addrs:                 addresses,
		OnConnect:             o.OnConnect,
		Username:              o.Username,
		Password:              o.Password,
		Protocol:              o.Protocol,
		MaxRetries:            o.MaxRetries,
		MinRetryBackoff:       o.MinRetryBackoff,
		MaxRetryBackoff:       o.MaxRetryBackoff,
		DialTimeout:           o.DialTimeout,
		DialerRetries:         o.DialerRetries,
		ReadTimeout:           o.ReadTimeout,
		WriteTimeout:          o.WriteTimeout,
		ContextTimeoutEnabled: true,
		PoolFIFO:              o.PoolFIFO,
		PoolSize:              o.PoolSize, // for each node
		PoolTimeout:           o.PoolTimeout,
		MinIdleConns:          o.MinIdleConns,
		MaxIdleConns:          o.MaxIdleConns,
		MaxActiveConns:        o.MaxActiveConns,
		MaxConcurrentDials:    o.MaxConcurrentDials,
		ConnMaxIdleTime:       o.ConnMaxIdleTime,
		ConnMaxLifetime:       o.ConnMaxLifetime,
		ConnMaxLifetimeJitter: o.ConnMaxLifetimeJitter,
		PipelinePoolSize:      o.PipelinePoolSize,

		PipelineReadBufferSize:   o.PipelineReadBufferSize,
		PipelineWriteBufferSize:  o.PipelineWriteBufferSize,
		MaintNotificationsConfig: o.MaintNotificationsConfig,
	}
	if o.TLSConfig != nil {
		c.TLSConfig = o.TLSConfig.Clone()
		c.TLSConfig.ServerName = "" // each node is checked by its own name
	}
	return c
}
