package tracing

import (
	"context"
	"encoding/hex"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// binaryIDs makes bytes of the ids of traces in exemplars, as OTLP has them. The bridge passes them
// on as Prometheus writes them, in hexadecimal, and collectors refuse all of a message with an id
// of that length.
type binaryIDs struct{ sdkmetric.Producer }

// Produce implements sdkmetric.Producer.
func (p binaryIDs) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	scopes, err := p.Producer.Produce(ctx)
	for _, scope := range scopes {
		for _, m := range scope.Metrics {
			if histogram, ok := m.Data.(metricdata.Histogram[float64]); ok {
				for _, point := range histogram.DataPoints {
					decodeIDs(point.Exemplars)
				}
			}
		}
	}
	return scopes, err
}

func decodeIDs(exemplars []metricdata.Exemplar[float64]) {
	for i := range exemplars {
		if id, err := hex.DecodeString(string(exemplars[i].TraceID)); err == nil && len(id) == 16 {
			exemplars[i].TraceID = id
		}
	}
}
