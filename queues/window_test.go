package queues_test

import (
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues"
)

// A flush from a shell has no window, and acks what instances with one are to bring forward should Postgres be turned back.
func TestWhoeverAcksRetainsForTheLongestWindowThatAnInstanceHas(t *testing.T) {
	url := testserver.Redis(t)
	client := dial(t, url)
	instance, other := open(t, client, retaining), open(t, dial(t, url), queues.RedisOptions{})
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

	// Nor is it forgotten before, by whoever has a shorter one. Its age is by the earlier of two clocks.
	for aged := time.Now().UnixMilli() + 5; time.Now().UnixMilli() < aged; {
		time.Sleep(time.Millisecond)
	}
	if err := other.Expire(t.Context(), 0, time.Millisecond, time.Now()); err != nil {
		t.Fatal(err)
	}
	wantRetained(t, other, 1)
	requeue(t, instance)

	// Instances that are gone are known for longer, for a flush in their place.
	if err := client.Del(t.Context(), key(queues.DefaultPrefix, 0, "window")).Err(); err != nil {
		t.Fatal(err)
	}
	wantWindow(time.Hour)
	ack(t, other, pushN(t, other, 1, 1))
	wantRetained(t, other, 0)
}
