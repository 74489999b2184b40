package redisqueue

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spendflush/spendflush/internal/abandon"
)

// Server is what a Redis says about itself. Services may hide any of it; then it is "".
type Server struct {
	Version        string // such as "7.0.15"; Valkey's own version where it is Valkey, such as "valkey 8.1.0"
	Mode           string // "standalone", "cluster" or "sentinel"
	Role           string // "master" or "slave", with ", loading" while it reads its data from disk
	EvictionPolicy string // maxmemory_policy; see MayEvict

	Memory      int64 // bytes in use, of anybody's; 0 if unknown
	MemoryLimit int64 // maxmemory in bytes; 0 if there is none, or it is unknown
}

// MayEvict says whether Redis may throw queued batches away when its memory is short. Policies
// named volatile-… take only keys that expire, and of those there are but locks and marks: a lost
// lock costs a flush that gives way, a lost mark a look into Postgres.
func (s Server) MayEvict() bool { return strings.HasPrefix(s.EvictionPolicy, "allkeys-") }

// IsReplica says whether Redis is the replica of another one, and so answers READONLY to what is
// written. Of a cluster it says no: there each master has its own.
func (s Server) IsReplica() bool { return strings.HasPrefix(s.Role, "slave") && s.Mode != "cluster" }

// String returns one line for a log.
func (s Server) String() string {
	unknown := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return s
	}
	return fmt.Sprintf("%s, %s, %s, maxmemory_policy %s",
		unknown(s.Version), unknown(s.Mode), unknown(s.Role), unknown(s.EvictionPolicy))
}

// Info asks Redis about itself; of a cluster, one node of it.
func (q *Queue) Info(ctx context.Context) (Server, error) {
	text, err := abandon.Call(ctx, q.calls, func() (string, error) { return q.client.Info(ctx).Result() })
	if err != nil {
		return Server{}, fmt.Errorf("ask Redis about itself: %w", err)
	}
	return parseServer(text), nil
}

func parseServer(text string) Server {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			fields[name] = value
		}
	}
	s := Server{
		Version:        fields["redis_version"],
		Mode:           fields["redis_mode"],
		Role:           fields["role"],
		EvictionPolicy: fields["maxmemory_policy"],
	}
	s.Memory, _ = strconv.ParseInt(fields["used_memory"], 10, 64)
	s.MemoryLimit, _ = strconv.ParseInt(fields["maxmemory"], 10, 64)
	if v := fields["valkey_version"]; v != "" {
		s.Version = "valkey " + v // its redis_version is the one it is compatible with
		if s.Mode == "" {
			s.Mode = fields["server_mode"]
		}
	}
	if fields["loading"] == "1" {
		s.Role += ", loading"
	}
	return s
}
