package redisqueue

import "testing"

func TestWhatAServerHidesIsUnknownAndValkeyIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"# Server\r\nredis_version:7.2.4\r\nredis_mode:standalone\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n" +
			"# Replication\r\nrole:master\r\n# Persistence\r\nloading:0\r\n": "7.2.4, standalone, master, maxmemory_policy noeviction",
		"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nserver_mode:cluster\r\nrole:slave\r\nloading:1\r\n": "valkey 8.1.0, cluster, slave, loading, maxmemory_policy unknown",
		"": "unknown, unknown, unknown, maxmemory_policy unknown",
	} {
		if got := parseServer(text).String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTheMemoryOfAServerIsKnownUnlessItHidesIt(t *testing.T) {
	s := parseServer("# Memory\r\nused_memory:1048576\r\nused_memory_human:1.00M\r\nmaxmemory:536870912\r\nmaxmemory_policy:noeviction\r\n")
	if s.Memory != 1<<20 || s.MemoryLimit != 512<<20 {
		t.Errorf("%d of %d bytes", s.Memory, s.MemoryLimit)
	}
	if s := parseServer("redis_version:7.2.4\r\n"); s.Memory != 0 || s.MemoryLimit != 0 {
		t.Errorf("%d of %d bytes where nothing is said", s.Memory, s.MemoryLimit)
	}
}

func TestOnlyAPolicyForAllKeysMayEvictBatches(t *testing.T) {
	for policy, want := range map[string]bool{
		"noeviction": false, "": false, "volatile-lru": false, "volatile-lfu": false, "volatile-random": false, "volatile-ttl": false,
		"allkeys-lru": true, "allkeys-lfu": true, "allkeys-random": true,
	} {
		if got := (Server{EvictionPolicy: policy}).MayEvict(); got != want {
			t.Errorf("%q: %v", policy, got)
		}
	}
}
