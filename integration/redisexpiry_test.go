package integration

import (
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// Services whose policy is volatile-… take only keys that expire. Of ours those can be done
// without: what counts is under keys that don't.
func TestOnlyKeysThatCanBeDoneWithoutExpire(t *testing.T) {
	t.Parallel()
	s := stackOn(t, testserver.Postgres(t), testserver.NewRedis(t).URL())
	instances := s.startAll(2, "SPENDFLUSH_REWIND_WINDOW=60s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)

	// The queue itself is a key only while something is in it.
	wanted := []string{":queue", ":index", ":bytes", ":retained", ":changes", "{spendflush:books:", ":mark:", ":lock:flush", ":heartbeats}:records", ":witness}", ":window", ":lastwindow"}
	expires := []string{":mark:", ":lock:flush", ":heartbeats}:", ":witness}", ":window", ":lastwindow"}
	holds := func(list []string, key string) bool {
		for _, part := range list {
			if strings.Contains(key, part) {
				return true
			}
		}
		return false
	}
	client := s.redisClient()
	seen := map[string]bool{}
	eventually(t, "each kind of key was there", func() string {
		keys, err := client.Keys(t.Context(), "*").Result()
		if err != nil {
			return err.Error()
		}
		for _, key := range keys {
			left, err := client.PTTL(t.Context(), key).Result()
			if err != nil {
				return err.Error()
			}
			if left >= 0 && !holds(expires, key) {
				t.Fatalf("%s expires in %s", key, left)
			}
			for _, part := range wanted {
				seen[part] = seen[part] || strings.Contains(key, part)
			}
		}
		missing := ""
		for _, part := range wanted {
			if !seen[part] {
				missing += " " + part
			}
		}
		return missing
	})
	s.finish(instances, l)
}
