package integration

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// count returns in how many lines the process has said the text.
func (p *process) count(text string) (lines int) {
	for line := range strings.Lines(p.stderr.String()) {
		if strings.Contains(line, text) {
			lines++
		}
	}
	return lines
}

func contains(text, part string) bool { return strings.Contains(text, part) }

// holdLock takes the lock for a holder that doesn't flush, so that batches stay in the queue, and
// waits until the instances have noticed.
func (s *stack) holdLock(client *redis.Client, instances ...*instance) {
	s.t.Helper()
	if err := client.Set(s.t.Context(), s.lockKey(0), "nobody", 0).Err(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "nobody else holds the lock", func() string {
		for _, in := range instances {
			if in.metrics().sum("litellm_pod_lock_manager_size") > 0 {
				return in.name + " believes to hold it"
			}
		}
		return ""
	})
}

func TestGapOfADeadInstanceIsReportedWithItsAmountAndPassed(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	client := s.redisClient()
	s.holdLock(client)
	doomed := s.start("doomed", "SPENDFLUSH_GAP_GRACE=3s")
	books := []*book{}
	for i := range 4 {
		l := startLoad(t, []*instance{doomed}, loadOptions{clients: 1, updates: 20, most: 20, acks: []string{"queued"}, prefix: string(rune('a'+i)) + "-"})
		_, recorded, _ := l.stop()
		books = append(books, recorded)
	}
	doomed.kill()
	entries, err := client.XRange(t.Context(), s.queueKey(0), "-", "+").Result()
	if err != nil || len(entries) < 4 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	// Redis loses one of them: the one before the last.
	lost := entries[len(entries)-2]
	if err := client.XDel(t.Context(), s.queueKey(0), lost.ID).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Del(t.Context(), s.lockKey(0)).Err(); err != nil {
		t.Fatal(err)
	}
	other := s.start("other", "SPENDFLUSH_GAP_GRACE=3s")
	other.logged("BATCHES ARE LOST")
	eventually(t, "the queue is empty", func() string {
		if n := client.XLen(t.Context(), s.queueKey(0)).Val(); n > 0 {
			return "it isn't"
		}
		return ""
	})
	if n := other.metrics().sum("spendflush_lost_batches_total"); n != 1 {
		t.Errorf("spendflush_lost_batches_total is %v", n)
	}
	if n := s.number("SELECT count(*) FROM spendflush.lost_batches"); n != 1 {
		t.Errorf("%d rows in lost_batches", n)
	}
	all := newBook()
	for _, b := range books {
		all.join(b)
	}
	booked := s.number("SELECT sum(updates)::bigint FROM spendflush.producers")
	missing := s.number("SELECT sum(sealed_updates - updates)::bigint FROM spendflush.producers")
	if booked+missing != all.updates || missing == 0 {
		t.Errorf("%d updates are booked and %d lost; want %d together", booked, missing, all.updates)
	}
	s.audit()
	// An operator finds it after all, say in a copy of Redis' memory.
	s.holdLock(client, other)
	if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: s.queueKey(0), Values: lost.Values}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Del(t.Context(), s.lockKey(0)).Err(); err != nil {
		t.Fatal(err)
	}
	other.logged("has turned up and is counted")
	other.stop(0)
	compare(t, "spend", all.entities, s.readEntities())
	s.audit()
}
