package redisqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/redis/go-redis/v9"
)

// failover finds the master that sentinels name. go-redis's own client of sentinels stays with the
// first one that has answered, and hangs with it.
type failover struct {
	*topology
	opts *redis.FailoverOptions
}

// newFailover returns a client of the master.
func newFailover(f *redis.FailoverOptions) *redis.Client {
	o := &redis.Options{
		Addr: f.MasterName, OnConnect: greet(cmp.Or(f.ClientName, clientName), true),
		DB: f.DB, Username: f.Username, Password: f.Password, Protocol: f.Protocol, TLSConfig: f.TLSConfig,
		MaxRetries: f.MaxRetries, MinRetryBackoff: f.MinRetryBackoff, MaxRetryBackoff: f.MaxRetryBackoff,
		DialTimeout: f.DialTimeout, DialerRetries: f.DialerRetries, DialerRetryTimeout: f.DialerRetryTimeout,
		ReadTimeout: f.ReadTimeout, WriteTimeout: f.WriteTimeout,
		PoolFIFO: f.PoolFIFO, PoolSize: f.PoolSize, PoolTimeout: f.PoolTimeout, MinIdleConns: f.MinIdleConns,
		MaxIdleConns: f.MaxIdleConns, MaxActiveConns: f.MaxActiveConns, MaxConcurrentDials: f.MaxConcurrentDials,
		ConnMaxIdleTime: f.ConnMaxIdleTime, ConnMaxLifetime: f.ConnMaxLifetime, ConnMaxLifetimeJitter: f.ConnMaxLifetimeJitter,
		PipelinePoolSize: f.PipelinePoolSize, PipelineReadBufferSize: f.PipelineReadBufferSize,
		PipelineWriteBufferSize: f.PipelineWriteBufferSize,
	}
	v := &failover{opts: f}
	o.Dialer = func(ctx context.Context, network, _ string) (net.Conn, error) {
		master, err := v.master(ctx)
		if err != nil {
			return nil, err
		}
		return v.dialNode(ctx, network, master)
	}
	setDefaults(o)

	v.topology = newTopology(dialer(o.DialTimeout, o.TLSConfig))
	v.find = func() { go v.master(context.Background()) }
	client := redis.NewClient(o)
	client.AddHook(v.topology)
	return client
}

// master returns the address of the master that most of the sentinels name.
func (v *failover) master(ctx context.Context) (string, error) {
	address, err := poll(ctx, v.opts.SentinelAddrs, v.ask, func(address string) string { return address })
	if err != nil {
		return "", fmt.Errorf("ask the sentinels for the master %s: %w", v.opts.MasterName, err)
	}
	v.found([]string{address})
	return address, nil
}

// ask asks one sentinel, on a connection of its own.
func (v *failover) ask(ctx context.Context, sentinel string) (string, error) {
	client := redis.NewSentinelClient(&redis.Options{
		Addr: sentinel, Username: v.opts.SentinelUsername, Password: v.opts.SentinelPassword,
		Dialer: v.dial, ContextTimeoutEnabled: true, DialTimeout: refreshTimeout, ReadTimeout: refreshTimeout,
		PoolSize: 1, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
	})
	defer client.Close()
	told, err := client.GetMasterAddrByName(ctx, v.opts.MasterName).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return "", errors.New("this sentinel knows no master of that name")
	case err != nil:
		return "", err
	case len(told) != 2:
		return "", fmt.Errorf("the sentinel answers %q", told)
	}
	return net.JoinHostPort(told[0], told[1]), nil
}
