package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// maxAsked is how many nodes of a cluster are asked for its state at once.
const maxAsked = 7

// cluster finds out which node has which slots. go-redis's own way asks one node, which may hang or
// know less than the others, and waits for it as long as for any call.
type cluster struct {
	*topology
	opts  *redis.ClusterOptions
	seeds []string

	mu    sync.Mutex
	known []string // nodes of the last state

	// loopback has the addresses of nodes on this machine by what go-redis makes of them: it leaves
	// the host out, for want of the node that told it.
	loopback map[string]string
}

// newCluster returns a client of a cluster.
func newCluster(o *redis.ClusterOptions) *redis.ClusterClient {
	c := &cluster{
		topology: newTopology(dialer(o.DialTimeout, o.TLSConfig)), opts: o, seeds: slices.Clone(o.Addrs), loopback: map[string]string{},
	}
	o.Dialer = c.dialAny
	o.ClusterSlots = c.slots
	// Before its first call go-redis would ask any node, also one that hangs, what commands there
	// are, for up to 5 s, and let all calls wait for that. Only commands without a key or with keys
	// of several nodes need it.
	o.DisableRoutingPolicies = true
	client := redis.NewClusterClient(o)
	c.find = func() { client.ReloadState(context.Background()) }
	client.AddHook(c.topology)
	return client
}

// dialAny dials a node by the address that go-redis has of it.
func (c *cluster) dialAny(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	if known, ok := c.loopback[address]; ok {
		address = known
	}
	c.mu.Unlock()
	return c.dialNode(ctx, network, address)
}

// slots returns the state of the cluster as most of its nodes see it.
func (c *cluster) slots(ctx context.Context) ([]redis.ClusterSlot, error) {
	slots, err := poll(ctx, c.nodes(), c.ask, func(slots []redis.ClusterSlot) string {
		var text strings.Builder
		for _, s := range slots {
			fmt.Fprintf(&text, "%d-%d %s\n", s.Start, s.End, s.Nodes[0].Addr)
		}
		return text.String()
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the state of the cluster: %w", err)
	}

	var masters, all []string
	for _, s := range slots {
		masters = append(masters, s.Nodes[0].Addr)
		for _, node := range s.Nodes {
			all = append(all, node.Addr)
		}
	}
	slices.Sort(all)
	c.mu.Lock()
	c.known = slices.Compact(all)
	for _, address := range c.known {
		if host, port, _ := net.SplitHostPort(address); isLoopback(host) {
			c.loopback[":"+port] = address
		}
	}
	c.mu.Unlock()
	c.found(masters)
	return slots, nil
}

// nodes returns addresses to ask: those that the client was given, and those known.
func (c *cluster) nodes() []string {
	c.mu.Lock()
	all := slices.Concat(c.seeds, c.known)
	c.mu.Unlock()
	slices.Sort(all)
	all = slices.Compact(all)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(maxAsked, len(all))]
}

// ask asks one node, on a connection of its own.
func (c *cluster) ask(ctx context.Context, address string) ([]redis.ClusterSlot, error) {
	client := redis.NewClient(&redis.Options{
		Addr: address, Username: c.opts.Username, Password: c.opts.Password, Protocol: c.opts.Protocol,
		Dialer: c.dial, OnConnect: c.opts.OnConnect, ContextTimeoutEnabled: true, DialTimeout: refreshTimeout,
		ReadTimeout: refreshTimeout, PoolSize: 1, MaxRetries: -1, DialerRetries: 1, PipelinePoolSize: -1, DisableIdentity: true,
		MaintNotificationsConfig: c.opts.MaintNotificationsConfig,
	})
	defer client.Close()
	slots, err := client.ClusterSlots(ctx).Result() //lint:ignore SA1019 Redis 6.2 has no CLUSTER SHARDS
	if err != nil {
		return nil, err
	}

	slots = slices.DeleteFunc(slots, func(s redis.ClusterSlot) bool { return len(s.Nodes) == 0 })
	if len(slots) == 0 {
		return nil, errors.New("it knows of no slots")
	}
	slices.SortFunc(slots, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
	for _, s := range slots {
		for i := range s.Nodes {
			s.Nodes[i].Addr = seenFrom(s.Nodes[i].Addr, address)
		}
	}
	return slots, nil
}

// seenFrom completes an address that a node has told, by the address that the node itself was
// reached at: it doesn't tell its own host before another node has met it, nor its port where it
// has TLS alone, and may call itself localhost.
func seenFrom(told, teller string) string {
	host, port, err := net.SplitHostPort(told)
	tellerHost, tellerPort, err2 := net.SplitHostPort(teller)
	if err != nil || err2 != nil {
		return told
	}
	if host == "" || host == "?" || net.ParseIP(host).IsLoopback() && !isLoopback(tellerHost) {
		host = tellerHost
	}
	if port == "0" {
		port = tellerPort
	}
	return net.JoinHostPort(host, port)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
