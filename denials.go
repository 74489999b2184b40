package spendflush

import (
	"context"
	"errors"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// denial is how a server has refused a push, a flush, an ack or a direct write.
type denial struct {
	text string
	at   time.Time
}

// denialLasts is how long one is reported after it can't be seen whether it goes on: another
// instance has the lock, or nothing is left to push.
const denialLasts = 10 * time.Second

// noteDenied takes note of whether a server has denied a flush, or its ack, for people.
func (f *flusher) noteDenied(ctx context.Context, err error) {
	now := f.p.time.Now()
	err = errors.Join(err, f.ackErr)
	switch last := f.denied.Load(); {
	case errors.Is(err, spend.ErrDenied):
		f.denied.Store(&denial{err.Error(), now})
	case last == nil || ctx.Err() != nil || errors.Is(err, spend.ErrHeld) && now.Sub(last.at) < denialLasts:
	default:
		f.denied.Store(nil)
	}
}

// noteDenied takes note of whether a server has denied a call, for people.
func (r *relay) noteDenied(last *denial, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*last = denial{}
	if errors.Is(err, spend.ErrDenied) {
		*last = denial{err.Error(), r.p.time.Now()}
	}
}

// denied returns the last denial. Where nothing is left to be tried again it is soon old news. The
// caller must hold mu.
func (r *relay) denied() string {
	last := r.queueDenied
	if r.directDenied.text != "" {
		last = r.directDenied
	}
	if len(r.outbox.batches) == 0 && r.p.time.Now().Sub(last.at) > denialLasts {
		return ""
	}
	return last.text
}
