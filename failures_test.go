package spendflush

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/lockers/memlock"
	"github.com/spendflush/spendflush/spend"
)

// sqlError is an error of Postgres, as the one of pgx is.
type sqlError struct{ state, text string }

func (e sqlError) Error() string    { return e.text + " (SQLSTATE " + e.state + ")" }
func (e sqlError) SQLState() string { return e.state }

var (
	errTerminated = fmt.Errorf("apply: %w", sqlError{"57P01", "terminating connection due to administrator command"})
	errRecovering = fmt.Errorf("apply: %w", sqlError{"0A000", "cannot set transaction read-write mode during recovery"})
)

// changingStore refuses each flush for the reason that is true at the moment.
type changingStore struct {
	*testStore
	mu     sync.Mutex
	reason error
}

func (s *changingStore) Apply(ctx context.Context, f *spend.Flush) error {
	s.mu.Lock()
	reason := s.reason
	s.mu.Unlock()
	if reason != nil {
		return reason
	}
	return s.testStore.Apply(ctx, f)
}

func (s *changingStore) fail(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = reason
}

// logged is a log at level info, which nobody reads while it is written.
type logged struct{ bytes.Buffer }

// errors returns the reasons that lines of this message gave.
func (l *logged) errors(t *testing.T, message string) (reasons []string) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var entry struct{ Msg, Error string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Msg == message {
			reasons = append(reasons, entry.Error)
		}
	}
	return reasons
}

// While a shard can't be flushed the log has the reason that is true now: the first one, each other
// one that comes, and once a minute whatever lasts.
func TestTheLogSaysWhyFlushesFailNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logged{}
		r := newRig(t, true, 1, &faults{})
		store := &changingStore{testStore: r.store, reason: errTerminated}
		c := r.cfg
		c.Store, c.Logger = store, slog.New(slog.NewJSONHandler(log, nil))
		r.Pipeline = newTestPipeline(t, c)
		r.start(t)
		r.record(t, spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "a"}})

		const fails, works = "flush fails; batches stay in the queue and are tried again", "flushing works again"
		want := func(when string, least, most int, reason error) {
			t.Helper()
			synctest.Wait()
			told := 0
			for _, text := range log.errors(t, fails) {
				if strings.Contains(text, reason.Error()) {
					told++
				}
			}
			if told < least || told > most {
				t.Errorf("%s the log has %q %d times, want %d to %d", when, reason, told, least, most)
			}
		}
		time.Sleep(30 * time.Second)
		want("in half a minute", 1, 1, errTerminated)
		store.fail(errRecovering)
		time.Sleep(30 * time.Second)
		want("half a minute after it changed", 1, 1, errRecovering)
		time.Sleep(5 * time.Minute)
		want("five minutes later", 5, 6, errRecovering)
		want("at the end", 1, 1, errTerminated)

		store.fail(nil)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(log.errors(t, works)); n != 1 {
			t.Errorf("the log says %d times that flushing works again, want once", n)
		}
		r.end(t)
	})
}

// Two errors are of one kind if they differ only in what is another one at each try.
func TestErrorsAreOfOneKindWhateverDiffersFromTryToTry(t *testing.T) {
	dial := func(port int, errno syscall.Errno) error {
		return fmt.Errorf("push: %w", &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{Port: port}, Err: errno})
	}
	for _, c := range []struct {
		name string
		a, b error
		same bool
	}{
		{"ports", &net.OpError{Op: "read", Source: &net.TCPAddr{Port: 1}, Err: syscall.ECONNRESET}, &net.OpError{Op: "read", Source: &net.TCPAddr{Port: 2}, Err: syscall.ECONNRESET}, true},
		{"nodes of a cluster", dial(1, syscall.ECONNREFUSED), dial(2, syscall.ECONNREFUSED), true},
		{"dialing and reading", dial(1, syscall.ECONNREFUSED), &net.OpError{Op: "read", Err: syscall.ECONNREFUSED}, false},
		{"texts of one SQLSTATE", sqlError{"40P01", "process 1 waits"}, fmt.Errorf("again: %w", sqlError{"40P01", "process 2 waits"}), true},
		{"two SQLSTATEs", errTerminated, errRecovering, false},
		{"joined errors", errors.Join(context.DeadlineExceeded, errTerminated), errTerminated, true},
		{"words of Redis", errors.New("READONLY You can't write against a read only replica."), errors.New("NOPERM this user has no permissions"), false},
	} {
		if same := kindOf(c.a) == kindOf(c.b); same != c.same {
			t.Errorf("%s: %q and %q, of one kind: %t, want %t", c.name, kindOf(c.a), kindOf(c.b), same, c.same)
		}
	}
}

// foreignLocker has its lock held by what may be no instance, until it is let go.
type foreignLocker struct {
	*memlock.Locker
	holder atomic.Pointer[spend.Holder]
}

func (l *foreignLocker) Acquire(ctx context.Context, name string) (spend.Lease, error) {
	if holder := l.holder.Load(); holder != nil {
		return nil, &spend.HeldError{Name: name, Holder: *holder}
	}
	return l.Locker.Acquire(ctx, name)
}

// An instance gives a lock up. Whoever else holds it may do so for as long as it likes, and the log
// names it.
func TestTheLogNamesWhoHoldsALockAndIsNoInstance(t *testing.T) {
	for _, withQueue := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			log := &logged{}
			r := newRig(t, withQueue, 1, &faults{})
			locker := &foreignLocker{Locker: newTestLocker()}
			c := r.cfg
			message := "direct write failed; batches are kept and tried again"
			c.DirectLocker, c.Logger = locker, slog.New(slog.NewJSONHandler(log, nil))
			if withQueue {
				message = "flush fails; batches stay in the queue and are tried again"
				c.DirectLocker, c.Locker = r.cfg.DirectLocker, locker
			}
			locker.holder.Store(&spend.Holder{Owner: "another instance"})
			r.Pipeline = newTestPipeline(t, c)
			r.start(t)
			receipt := r.record(t, key("a"))
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if told := log.errors(t, message); len(told) != 0 {
				t.Errorf("another instance has the lock, and the log says %q", told)
			}
			locker.holder.Store(&spend.Holder{Foreign: `process 7 of role "mallory"`})
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if told := log.errors(t, message); len(told) != 1 || !strings.Contains(told[0], "mallory") {
				t.Errorf("the log says %q", told)
			}

			locker.holder.Store(nil)
			if stage, err := r.Wait(t.Context(), receipt, Committed); err != nil {
				t.Errorf("%s, %v", stage, err)
			}
			r.end(t)
		})
	}
}
