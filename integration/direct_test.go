package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"syscall"
	"testing"
)

// manyKeys are n updates of a dollar, each of a key of its own, so that every shard gets some.
func manyKeys(n int) []byte {
	var body bytes.Buffer
	for i := range n {
		fmt.Fprintf(&body, "{\"api_key\":\"key-%d\",\"spend\":\"1\"}\n", i)
	}
	return body.Bytes()
}

// The lock of a direct write and the flush made under it need a connection each. Were both of one
// pool, relays that hold their lock would wait for each other.
func TestWithoutRedisAnyNumberOfShardsAndConnectionsCommitsAndDrains(t *testing.T) {
	for _, c := range []struct{ shards, connections int }{{8, 8}, {16, 8}, {16, 4}, {64, 4}} {
		t.Run(fmt.Sprintf("%dShards%dConnections", c.shards, c.connections), func(t *testing.T) {
			const n = 1000
			s := newStack(t)
			in := s.start("alone", "USE_REDIS_TRANSACTION_BUFFER=false", "REDIS_URL=",
				fmt.Sprint("SPENDFLUSH_SHARDS=", c.shards), fmt.Sprint("SPENDFLUSH_MAX_CONNECTIONS=", c.connections), "SPENDFLUSH_SHUTDOWN_TIMEOUT=80s")
			for range 3 {
				// Connections that starve each other never get there; 64 locks that one connection
				// takes in turn do on a busy machine, too.
				status, answer, err := in.postUpdates("committed&timeout=60s", "application/x-ndjson", manyKeys(n))
				if err != nil || status != http.StatusOK {
					t.Fatalf("ack=committed: %d %s %v", status, answer, err)
				}
			}
			if open := s.number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'spendflush%'"); open > int64(c.connections) {
				t.Errorf("%d connections are open, allowed are %d", open, c.connections)
			}

			if status, answer, err := in.postUpdates("accepted", "application/x-ndjson", manyKeys(n)); err != nil || status != http.StatusAccepted {
				t.Fatalf("%d %s %v", status, answer, err)
			}
			in.signal(syscall.SIGTERM)
			if status := in.wait(); status != 0 {
				t.Errorf("exit status %d instead of 0", status)
			}
			if spent := s.number("SELECT sum(spend)::bigint FROM spendflush.spend WHERE entity_type = 'api_key'"); spent != 4*n {
				t.Errorf("booked are %d dollars instead of %d", spent, 4*n)
			}
		})
	}
}
