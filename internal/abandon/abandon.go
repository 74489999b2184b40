// Package abandon lets the callers of a client that can't be interrupted go on when their context
// ends. go-redis is one: it looks at a context's deadline before it waits for a reply, but once it
// waits it doesn't see a cancellation.
package abandon

import (
	"context"
	"sync"
)

// Calls are the calls that are running, abandoned ones included. The zero value is ready for use.
type Calls struct {
	running sync.WaitGroup
}

// Call returns what f returns, or ctx's error as soon as ctx ends. Then f is abandoned: it runs on,
// what it returns is dropped, and its outcome is unknown. f must end by itself some time, and must
// not use what its caller owns after the call. If ctx has ended already, f isn't run.
func Call[T any](ctx context.Context, c *Calls, f func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	c.running.Go(func() {
		value, err := f()
		done <- outcome{value, err}
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// Wait blocks until no call is running. It must not be called while new calls can begin.
func (c *Calls) Wait() { c.running.Wait() }
