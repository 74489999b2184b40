package main

import (
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/httpapi"
)

// How the files that the process may have open are shared out. Connections are files, too: without
// this, clients could take all of them, and a connection to Postgres or Redis that was lost could
// not be made again.
const (
	ownFiles     = 64 // the log, the journal, the listener, what Go needs
	redisNodes   = 6  // of a cluster, as is assumed
	fewestPlaces = 4  // for clients, below which the instance doesn't start
)

// maxClients returns how many clients the instance may have: what the settings say, or less if the
// limit on open files leaves less. It fails if that leaves next to none.
func (in *instance) maxClients() (int, error) {
	limit, ok := fileLimit()
	if !ok {
		return in.set.MaxClients, nil
	}
	reserved := in.reservedFiles()
	most := limit - int64(reserved)
	if most < fewestPlaces {
		return 0, usageError{fmt.Errorf("the process may have %d files open; it needs %d at least, or a smaller SPENDFLUSH_MAX_CONNECTIONS "+
			"(raise it with ulimit -n, or LimitNOFILE in a systemd unit)", limit, reserved+fewestPlaces)}
	}
	if most >= int64(in.set.MaxClients) {
		return in.set.MaxClients, nil
	}
	in.log.Warn("SPENDFLUSH_MAX_CLIENTS is more than the limit on open files allows: fewer clients are let in",
		"max_clients", in.set.MaxClients, "let_in", most, "open_files_limit", limit, "kept_for_postgres_redis_and_files", reserved)
	return int(most), nil
}

// reservedFiles returns how many files are kept from clients.
func (in *instance) reservedFiles() int {
	n := ownFiles + in.set.MaxConnections + redisConnections(in.client) + httpapi.HealthReserve
	if in.metrics != nil {
		n += httpapi.MetricsConnections
	}
	return n
}

// redisConnections returns how many connections to Redis there may be.
func redisConnections(client redis.UniversalClient) int {
	switch c := client.(type) {
	case *redis.Client:
		return c.Options().PoolSize
	case *redis.ClusterClient:
		return c.Options().PoolSize * max(redisNodes, len(c.Options().Addrs))
	default:
		return 0
	}
}
