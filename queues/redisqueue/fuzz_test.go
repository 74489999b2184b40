package redisqueue_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/queues/redisqueue"
)

func FuzzARedisURLIsUsableOrRefusedWithoutItsPassword(f *testing.F) {
	for _, parts := range [][2]string{
		{"redis", "host"}, {"rediss", "a:1,[::1]:2/0"}, {"unix", "/run/redis.sock?db=2"}, {"redis", "host?cluster=true&pool_size=3"},
		{"redis", "host:port"}, {"redis", "[::1"}, {"", "h/1/2#f"}, {"redis", "a:1,u:p@b:2"},
	} {
		f.Add(parts[0], parts[1])
	}
	const password = "hunter2hunter2"
	f.Fuzz(func(t *testing.T, scheme, rest string) {
		text := scheme + "://user:" + password + "@" + rest
		client, err := redisqueue.Dial(text)
		if err == nil {
			_ = client.Close()
			return
		}
		if !errors.Is(err, redisqueue.ErrURL) {
			t.Fatalf("%q: %v doesn't wrap ErrURL", text, err)
		}
		if strings.Contains(err.Error(), password) {
			t.Fatalf("%q: the error shows the password: %v", text, err)
		}
	})
}
