package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	slowCall        = 500 * time.Millisecond // a call that takes longer makes the client look who is master
	refreshInterval = 250 * time.Millisecond // it looks no more often
	refreshTimeout  = time.Second            // and asks for no longer
	demotedFor      = time.Minute            // how long a node that was a master isn't dialed
)

var errDemoted = errors.New("this node is no master any more")

// topology sees to it that a client of several nodes notices soon when another node has become
// master. go-redis by itself learns of that from the old master, which may be dead or hang, or
// within a minute.
//
// Whoever dials in vain, gets no answer for slowCall, or is told that a node is no master, makes it
// look. When it has found another master, it ends the connections to the old one: calls that wait
// there for an answer fail at once, and are tried again by those who made them. It is a hook of the
// client.
type topology struct {
	dial dialFunc
	find func() // begins to look for the masters; whatever is found goes to found

	refreshed atomic.Int64 // when it began to look for the last time, Unix nanoseconds

	mu      sync.Mutex // guards what follows; no I/O under it
	masters map[string]bool
	demoted map[string]time.Time // nodes that were masters, and since when they aren't
	conns   map[string]map[net.Conn]struct{}
}

func newTopology(dial dialFunc) *topology {
	return &topology{
		dial: dial, masters: map[string]bool{}, demoted: map[string]time.Time{}, conns: map[string]map[net.Conn]struct{}{},
	}
}

// refresh begins to look for the masters, unless it has just done so.
func (t *topology) refresh() {
	now, last := time.Now().UnixNano(), t.refreshed.Load()
	if now-last >= int64(refreshInterval) && t.refreshed.CompareAndSwap(last, now) {
		t.find()
	}
}

// found takes note of the nodes that are masters now.
func (t *topology) found(masters []string) {
	now := time.Now()
	t.mu.Lock()
	for address := range t.masters {
		if !slices.Contains(masters, address) {
			t.demoted[address] = now
		}
	}
	clear(t.masters)
	for _, address := range masters {
		t.masters[address] = true
		delete(t.demoted, address)
	}
	maps.DeleteFunc(t.demoted, func(_ string, since time.Time) bool { return now.Sub(since) > demotedFor })
	var old []net.Conn
	for address := range t.demoted {
		old = slices.AppendSeq(old, maps.Keys(t.conns[address]))
	}
	t.mu.Unlock()

	for _, conn := range old {
		_ = conn.Close()
	}
}

// dialNode dials a node, unless it is known to be no master any more.
func (t *topology) dialNode(ctx context.Context, network, address string) (net.Conn, error) {
	t.mu.Lock()
	_, demoted := t.demoted[address]
	t.mu.Unlock()
	if demoted {
		t.refresh()
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, errDemoted)}
	}

	conn, err := t.dial(ctx, network, address)
	if err != nil {
		t.refresh()
		return nil, err
	}
	w := &watched{Conn: conn, address: address, t: t}
	t.mu.Lock()
	if t.conns[address] == nil {
		t.conns[address] = map[net.Conn]struct{}{}
	}
	t.conns[address][w] = struct{}{}
	t.mu.Unlock()
	if raw, ok := conn.(syscall.Conn); ok {
		return &watchedSocket{w, raw}, nil
	}
	return w, nil
}

// watched is a connection that the topology can end.
type watched struct {
	net.Conn
	address string
	t       *topology
}

func (w *watched) Close() error {
	w.t.mu.Lock()
	delete(w.t.conns[w.address], w)
	if len(w.t.conns[w.address]) == 0 {
		delete(w.t.conns, w.address)
	}
	w.t.mu.Unlock()
	return w.Conn.Close()
}

// watchedSocket lets go-redis see whether a connection without TLS has been closed by the server.
type watchedSocket struct {
	*watched
	raw syscall.Conn
}

func (w *watchedSocket) SyscallConn() (syscall.RawConn, error) { return w.raw.SyscallConn() }

// watch makes the topology look again and again until the call is done.
func (t *topology) watch() (done func()) {
	var timer atomic.Pointer[time.Timer]
	timer.Store(time.AfterFunc(slowCall, func() {
		t.refresh()
		if again := timer.Load(); again != nil {
			again.Reset(slowCall)
		}
	}))
	return func() { timer.Swap(nil).Stop() }
}

// consider looks for the masters if the error of a call may come of another one.
func (t *topology) consider(err error) {
	if err == nil || errors.Is(err, redis.Nil) {
		return
	}
	if isRefusal(err) && !redis.IsReadOnlyError(err) && !redis.IsClusterDownError(err) && !redis.IsMasterDownError(err) {
		return
	}
	t.refresh()
}

func (t *topology) DialHook(next redis.DialHook) redis.DialHook { return next }

func (t *topology) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		defer t.watch()()
		err := next(ctx, cmd)
		t.consider(err)
		return err
	}
}

func (t *topology) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		defer t.watch()()
		err := next(ctx, cmds)
		t.consider(err)
		return err
	}
}

// poll asks all of the addresses at once and returns the answer that most of them give, which key
// makes comparable: as soon as more than half of them have given it, else when all have answered or
// ctx has ended. The error is that of all if none has an answer.
func poll[T any](
	ctx context.Context, addresses []string, ask func(ctx context.Context, address string) (T, error), key func(T) string,
) (most T, err error) {
	type reply struct {
		answer T
		err    error
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	replies := make(chan reply, len(addresses))
	for _, address := range addresses {
		go func() {
			answer, err := ask(ctx, address)
			if err != nil {
				err = fmt.Errorf("%s: %w", address, err)
			}
			replies <- reply{answer, err}
		}()
	}

	votes, best := map[string]int{}, 0
	var errs []error
	for range addresses {
		select {
		case r := <-replies:
			if r.err != nil {
				errs = append(errs, r.err)
				continue
			}
			k := key(r.answer)
			if votes[k]++; votes[k] > best {
				most, best = r.answer, votes[k]
			}
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
		}
		if best > len(addresses)/2 || ctx.Err() != nil {
			break
		}
	}
	if best == 0 {
		return most, errors.Join(errs...)
	}
	return most, nil
}
