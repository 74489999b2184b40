package redisqueue_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

// openHeartbeats returns heartbeats on the client that has no abandoned call left when the test
// ends.
func openHeartbeats(t *testing.T, client redis.UniversalClient, o redisqueue.HeartbeatOptions) *redisqueue.Heartbeats {
	t.Helper()
	r := testserver.Must(redisqueue.NewHeartbeats(client, o))
	t.Cleanup(func() {
		_ = client.Close()
		r.Wait()
	})
	return r
}

func put(t *testing.T, r *redisqueue.Heartbeats, id, record string) {
	t.Helper()
	if _, err := r.Put(t.Context(), id, []byte(record)); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, r *redisqueue.Heartbeats) []redisqueue.Heartbeat {
	t.Helper()
	list, now, err := r.List(t.Context())
	if err != nil || now.IsZero() {
		t.Fatal(now, err)
	}
	return list
}

func ids(t *testing.T, r *redisqueue.Heartbeats) (ids []string) {
	t.Helper()
	for _, entry := range list(t, r) {
		ids = append(ids, entry.ID)
	}
	return ids
}

func TestHeartbeatsHaveTheLastRecordOfEachProcessAndNoneOfThoseThatLeft(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	r := openHeartbeats(t, client, redisqueue.HeartbeatOptions{})
	other := openHeartbeats(t, client, redisqueue.HeartbeatOptions{Prefix: "other"})
	if got := ids(t, r); len(got) != 0 {
		t.Errorf("without a heartbeat there are %q", got)
	}
	put(t, r, "a", "first")
	put(t, r, "b", "\x00any bytes\xff")
	put(t, other, "c", "of others")
	put(t, r, "a", "second")
	records := map[string]string{}
	for _, entry := range list(t, r) {
		if entry.Age < 0 {
			t.Errorf("%s is %s old", entry.ID, entry.Age)
		}
		records[entry.ID] = string(entry.Record)
	}
	if len(records) != 2 || records["a"] != "second" || records["b"] != "\x00any bytes\xff" {
		t.Errorf("the heartbeats are %q", records)
	}
	for range 2 { // once more does no harm
		if err := r.Remove(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if got := ids(t, r); !slices.Equal(got, []string{"b"}) {
		t.Errorf("after a has left there are %q", got)
	}
}

func TestWhoWritesAHeartbeatGetsTheTimeOfRedis(t *testing.T) {
	r := openHeartbeats(t, dial(t, testserver.Redis(t)), redisqueue.HeartbeatOptions{})
	_, before, _ := r.List(t.Context())
	now, err := r.Put(t.Context(), "a", nil)
	_, after, _ := r.List(t.Context())
	if err != nil || before.IsZero() || now.Before(before) || now.After(after) {
		t.Errorf("%s, %v; want it between %s and %s", now, err, before, after)
	}
}

func TestARecordThatIsNotWrittenAgainIsForgottenByThoseWhoWriteAndByRedis(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	r := openHeartbeats(t, client, redisqueue.HeartbeatOptions{TTL: 100 * time.Millisecond})
	keys := []string{"{spendflush:heartbeats}:records", "{spendflush:heartbeats}:seen"}
	put(t, r, "gone", "record")
	for client.HExists(t.Context(), keys[0], "gone").Val() { // ends because each write forgets what is too old
		put(t, r, "alive", "record")
	}
	if got := ids(t, r); !slices.Equal(got, []string{"alive"}) {
		t.Errorf("listed are %q", got)
	}
	for client.Exists(t.Context(), keys...).Val() > 0 { // ends because both keys expire
	}
	if got := ids(t, r); len(got) != 0 {
		t.Errorf("listed are %q", got)
	}
}

func TestHeartbeatsAreBoundedInNumberAndSize(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	r := openHeartbeats(t, client, redisqueue.HeartbeatOptions{})
	put(t, r, "largest", strings.Repeat("x", redisqueue.MaxHeartbeatBytes))
	_, err := r.Put(t.Context(), "larger", make([]byte, redisqueue.MaxHeartbeatBytes+1))
	if !errors.Is(err, redisqueue.ErrHeartbeatRecord) || !strings.Contains(err.Error(), "32768") {
		t.Errorf("too large a record: %v", err)
	}
	_, err = client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		now := float64(time.Now().UnixMilli())
		for i := range 1050 {
			id := fmt.Sprint("many-", i)
			p.HSet(t.Context(), "{spendflush:heartbeats}:records", id, "record")
			p.ZAdd(t.Context(), "{spendflush:heartbeats}:seen", redis.Z{Score: now, Member: id})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, r, "last", "record")
	if got := ids(t, r); len(got) != 1000 || !slices.Contains(got, "last") || slices.Contains(got, "largest") {
		t.Errorf("%d records are listed; the last one written: %t; the first: %t", len(got), slices.Contains(got, "last"), slices.Contains(got, "largest"))
	}
	if n := client.HLen(t.Context(), "{spendflush:heartbeats}:records").Val(); n != 1000 {
		t.Errorf("%d records are kept", n)
	}
}

// What anybody may have put there who can write to Redis.
func TestHeartbeatsListNothingThatNoProcessCanHaveWritten(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	r := openHeartbeats(t, client, redisqueue.HeartbeatOptions{})
	plant := func(id string, record []byte) {
		t.Helper()
		if err := client.HSet(t.Context(), "{spendflush:heartbeats}:records", id, record).Err(); err != nil {
			t.Fatal(err)
		}
		z := redis.Z{Score: float64(time.Now().UnixMilli()), Member: id}
		if err := client.ZAdd(t.Context(), "{spendflush:heartbeats}:seen", z).Err(); err != nil {
			t.Fatal(err)
		}
	}
	plant("huge", make([]byte, 64<<20))
	plant(strings.Repeat("i", 1<<20), []byte("of a huge id"))
	plant("larger", make([]byte, redisqueue.MaxHeartbeatBytes+1))
	put(t, r, "a", "record")
	if got := ids(t, r); !slices.Equal(got, []string{"a"}) {
		t.Errorf("listed are %d records, the first %.40q", len(got), got[0])
	}
	for i := range 300 {
		plant(fmt.Sprint("many-", i), make([]byte, redisqueue.MaxHeartbeatBytes))
	}
	put(t, r, "a", "record")
	bytes, own := 0, false
	for _, entry := range list(t, r) {
		bytes += len(entry.ID) + len(entry.Record)
		own = own || entry.ID == "a"
	}
	if bytes > 8<<20 || bytes < 7<<20 || !own {
		t.Errorf("%d bytes are listed; the last record written: %t", bytes, own)
	}
	if _, err := r.Put(t.Context(), strings.Repeat("i", 257), nil); !errors.Is(err, redisqueue.ErrHeartbeatRecord) {
		t.Errorf("too large an id: %v", err)
	}
}

func TestHeartbeatsWithoutRedisSaySo(t *testing.T) {
	r := openHeartbeats(t, dial(t, "redis://127.0.0.1:1"), redisqueue.HeartbeatOptions{})
	if _, _, err := r.List(t.Context()); err == nil {
		t.Error("heartbeats are read from a Redis that isn't there")
	}
	if _, err := r.Put(t.Context(), "a", nil); err == nil {
		t.Error("a record is written to a Redis that isn't there")
	}
	if err := r.Remove(t.Context(), "a"); err == nil {
		t.Error("a record is removed from a Redis that isn't there")
	}
}
