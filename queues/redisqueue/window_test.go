package redisqueue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// A flush from a shell has no window, and acks what instances with one are to bring forward should
// Postgres be turned back.
func TestWhoeverAcksRetainsForTheLongestWindowThatAnInstanceHas(t *testing.T) {
	url := testserver.Redis(t)
	client := dial(t, url)
	instance, other := open(t, client, retaining), open(t, dial(t, url), redisqueue.Options{})
	wantWindow := func(want time.Duration) {
		t.Helper()
		if window, err := other.Window(t.Context()); err != nil || window != want {
			t.Errorf("the window is %s, want %s; %v", window, want, err)
		}
	}
	wantWindow(0)
	for _, window := range []time.Duration{time.Hour, time.Minute} { // another instance has a shorter one
		if err := instance.Expire(t.Context(), 0, window, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	wantWindow(time.Hour)
	ack(t, other, pushN(t, other, 1, 1))
	wantRetained(t, other, 1)

	// Nor is it forgotten before, by whoever has a shorter one. Its age is by the earlier of two
	// clocks.
	for aged := time.Now().UnixMilli() + 5; time.Now().UnixMilli() < aged; {
		time.Sleep(time.Millisecond)
	}
	if err := other.Expire(t.Context(), 0, time.Millisecond, time.Now()); err != nil {
		t.Fatal(err)
	}
	wantRetained(t, other, 1)
	requeue(t, instance)

	// Instances that are gone are known for longer, for a flush in their place.
	if err := client.Del(t.Context(), key(redisqueue.DefaultPrefix, 0, "window")).Err(); err != nil {
		t.Fatal(err)
	}
	wantWindow(time.Hour)
	ack(t, other, pushN(t, other, 1, 1))
	wantRetained(t, other, 0)
}

// Whoever may write to Redis can put anything there; it must not keep what is retained for ever.
func TestAMadeUpWindowKeepsNothing(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, retaining)
	window, last := key(redisqueue.DefaultPrefix, 0, "window"), key(redisqueue.DefaultPrefix, 0, "lastwindow")
	for _, c := range []struct {
		text  string
		lives time.Duration
	}{
		{"inf", time.Minute}, {"1e300", time.Minute}, {"nan", time.Minute}, {strings.Repeat("9", 1<<20), time.Minute},
		{"3600000", 0}, {"3600000", 11 * time.Minute},
	} {
		ack(t, q, pushN(t, q, 1, 1))
		wantRetained(t, q, 1)
		if err := client.Set(t.Context(), window, c.text, c.lives).Err(); err != nil {
			t.Fatal(err)
		}
		for aged := time.Now().UnixMilli() + 5; time.Now().UnixMilli() < aged; {
			time.Sleep(time.Millisecond)
		}
		if err := q.Expire(t.Context(), 0, time.Millisecond, time.Now()); err != nil {
			t.Errorf("%.10q: %v", c.text, err)
		}
		wantRetained(t, q, 0)
	}
	for _, text := range []string{"inf", "-1", strings.Repeat("9", 1<<20)} {
		if err := client.Set(t.Context(), last, text, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if window, err := q.Window(t.Context()); err == nil || !strings.Contains(err.Error(), last) || len(err.Error()) > 300 {
			t.Errorf("%.10q is a window of %s; %.300v", text, window, err)
		}
	}
}
