package main

import (
	"testing"

	"github.com/spendflush/spendflush/internal/httpapi"
)

func TestConnectionsForMetricsTakeNoFilesFromPostgresAndRedis(t *testing.T) {
	in := &instance{parts: &parts{set: &settings{MaxConnections: 10}}}
	without := in.reservedFiles()
	in.metrics = &metricsListener{}
	if n := in.reservedFiles() - without; n != httpapi.MetricsConnections {
		t.Errorf("%d files are kept for the listener of the metrics, which has %d connections", n, httpapi.MetricsConnections)
	}
}
