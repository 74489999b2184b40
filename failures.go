package spendflush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// failureLog logs something that fails again and again: when it begins, when the kind of error
// changes, and once a minute while it lasts. One goroutine uses it.
type failureLog struct {
	kind   string // of the error logged last; "" while all is well
	since  time.Time
	logged time.Time
}

const failureInterval = time.Minute

// failed notes an error.
func (f *failureLog) failed(log *slog.Logger, now time.Time, message string, err error) {
	kind := kindOf(err)
	if f.kind == "" {
		f.since = now
	}
	level := slog.LevelDebug
	if kind != f.kind || now.Sub(f.logged) >= failureInterval {
		level, f.logged = slog.LevelWarn, now
	}
	f.kind = kind
	log.Log(context.Background(), level, message, "error", err, "failing_for", now.Sub(f.since).Round(time.Millisecond).String())
}

// isFailing says whether the last try failed.
func (f *failureLog) isFailing() bool { return f.kind != "" }

// works notes a success, and says so if the try before failed.
func (f *failureLog) works(log *slog.Logger, now time.Time, message string) {
	if f.kind == "" {
		return
	}
	log.Info(message, "failed_for", now.Sub(f.since).Round(time.Millisecond).String())
	*f = failureLog{}
}

// kindOf names what kind of error it is, without what differs from one try to the next, such as a
// port.
func kindOf(err error) string {
	if state, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return state.SQLState()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Sprintf("%s %T", op.Op, innermost(op))
	}
	inner := innermost(err)
	text := inner.Error()
	return fmt.Sprintf("%T %.40s", inner, text)
}

// innermost returns the error that all others wrap, the last one where there are several.
func innermost(err error) error {
	for {
		var inner error
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			inner = e.Unwrap()
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 {
				inner = all[len(all)-1]
			}
		}
		if inner == nil {
			return err
		}
		err = inner
	}
}
