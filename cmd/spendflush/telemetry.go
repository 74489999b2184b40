package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/internal/httpapi"
	"github.com/spendflush/spendflush/internal/tracing"
)

// telemetryTimeout is how long a stop waits for the last spans and metrics to be sent.
const telemetryTimeout = 5 * time.Second

// startTelemetry begins to send traces and metrics by OTLP, if the variables of OpenTelemetry say
// so.
func (in *instance) startTelemetry(ctx context.Context, registry prometheus.Gatherer) (err error) {
	in.telemetry, err = tracing.Start(ctx, in.set.otel, tracing.Options{
		Instance: in.set.Instance, Version: programVersion(), Gatherer: registry, Logger: in.log,
	})
	if err != nil {
		return usageError{fmt.Errorf("OTEL_…: %w", err)}
	}
	if in.telemetry.Pipeline != nil {
		in.tracer = in.telemetry.Pipeline
	}
	if in.set.otel.Any() {
		in.log.Info("sends by OTLP", "traces", in.set.otel.Traces, "metrics", in.set.otel.Metrics)
	}
	return nil
}

// requestTracer returns what makes traces of requests, nil if nothing does.
func (in *instance) requestTracer() httpapi.Tracer {
	if in.telemetry.Requests == nil {
		return nil
	}
	return in.telemetry.Requests
}

// stopTelemetry sends what is left.
func (in *instance) stopTelemetry(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, telemetryTimeout)
	defer cancel()
	if err := in.telemetry.Stop(ctx); err != nil {
		in.log.Warn("the last traces or metrics are not sent", "error", err)
	}
}
