package tracing

import (
	"encoding/hex"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	prombridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func TestIDsOfExemplarsAreSentAsBytes(t *testing.T) {
	t.Parallel()
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	registry := prometheus.NewPedanticRegistry()
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "seconds", Help: "h", Buckets: []float64{1, 2}})
	registry.MustRegister(seconds)
	for value, label := range map[float64]string{0.5: id, 1.5: "not-a-trace"} {
		seconds.(prometheus.ExemplarObserver).ObserveWithExemplar(value, prometheus.Labels{"trace_id": label})
	}
	scopes, err := binaryIDs{prombridge.NewMetricProducer(prombridge.WithGatherer(registry))}.Produce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exemplars := scopes[0].Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints[0].Exemplars
	if len(exemplars) != 2 || hex.EncodeToString(exemplars[0].TraceID) != id || string(exemplars[1].TraceID) != "not-a-trace" {
		t.Errorf("the exemplars are %+v", exemplars)
	}
}
