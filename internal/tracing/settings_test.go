package tracing

import (
	"strings"
	"testing"
)

func TestSignalsAreOffUnlessAnEndpointOrAnExporterIsSet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		set             string
		traces, metrics bool
	}{
		{"", false, false},
		{"OTEL_SERVICE_NAME=books OTEL_TRACES_SAMPLER=always_on", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318", true, true},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://collector:4318/v1/traces", true, false},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://collector:4318/v1/metrics", false, true},
		{"OTEL_TRACES_EXPORTER=otlp", true, false},
		{"OTEL_METRICS_EXPORTER=otlp", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 OTEL_METRICS_EXPORTER=prometheus", true, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 OTEL_TRACES_EXPORTER=none", false, true},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 OTEL_SDK_DISABLED=true", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 OTEL_SDK_DISABLED=false OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", true, true},
		{"OTEL_TRACES_EXPORTER= OTEL_EXPORTER_OTLP_ENDPOINT=", false, false},
	} {
		s, err := FromEnviron(strings.Fields(c.set))
		if err != nil || s.Traces != c.traces || s.Metrics != c.metrics || s.Any() != (c.traces || c.metrics) {
			t.Errorf("%q: %+v, %v", c.set, s, err)
		}
	}
}

func TestWhatIsNotBuiltInEndsTheStartByName(t *testing.T) {
	t.Parallel()
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 "
	for set, want := range map[string]string{
		"OTEL_TRACES_EXPORTER=zipkin":                                          `OTEL_TRACES_EXPORTER: "zipkin" is not allowed; allowed: otlp, none`,
		"OTEL_TRACES_EXPORTER=prometheus":                                      `OTEL_TRACES_EXPORTER: "prometheus" is not allowed`,
		"OTEL_METRICS_EXPORTER=console":                                        `OTEL_METRICS_EXPORTER: "console" is not allowed; allowed: otlp, none, prometheus`,
		endpoint + "OTEL_EXPORTER_OTLP_PROTOCOL=grpc":                          `OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" is not allowed; allowed: http/protobuf`,
		endpoint + "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json":              `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "http/json" is not allowed`,
		endpoint + "OTEL_TRACES_SAMPLER=jaeger_remote":                         `OTEL_TRACES_SAMPLER: "jaeger_remote" is not allowed; allowed: always_on, always_off, `,
		endpoint + "OTEL_TRACES_EXPORTER=jaeger OTEL_METRICS_EXPORTER=console": "\n",
	} {
		if _, err := FromEnviron(strings.Fields(set)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", set, err)
		}
	}
	if _, err := FromEnviron(strings.Fields(endpoint + "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")); strings.Contains(err.Error(), "\n") {
		t.Errorf("what counts for both signals is told twice: %v", err)
	}
	if _, err := FromEnviron(strings.Fields("OTEL_SDK_DISABLED=true OTEL_TRACES_EXPORTER=zipkin")); err != nil {
		t.Errorf("what is switched off ends the start: %v", err)
	}
	for _, unused := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_TRACES_SAMPLER=jaeger_remote"} {
		if _, err := FromEnviron([]string{unused}); err != nil {
			t.Errorf("what nothing is sent by ends the start: %v", err)
		}
	}
}

// What the SDK can't take of these it writes into the log, as it is.
func TestWrongEndpointsAndHeadersEndTheStartAndNothingOfThemIsShown(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	for set, want := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4318/" + secret:                       "OTEL_EXPORTER_OTLP_ENDPOINT: not a URL",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://me:" + secret + "@collector:port":        "OTEL_EXPORTER_OTLP_ENDPOINT: not a URL",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http:///" + secret:                       "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: not a URL",
		"OTEL_EXPORTER_OTLP_HEADERS=Authorization: Bearer " + secret:                 "OTEL_EXPORTER_OTLP_HEADERS: number 1 is not name=value",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=b, api key=" + secret:                   "OTEL_EXPORTER_OTLP_TRACES_HEADERS: number 2 is not name=value",
		"OTEL_EXPORTER_OTLP_HEADERS=api-key=" + secret + "%zz,=" + secret:            "OTEL_EXPORTER_OTLP_HEADERS: number 1 is not name=value",
		"OTEL_EXPORTER_OTLP_HEADERS=api-key=" + secret + "%20,a=b=c,":                "",
		"OTEL_EXPORTER_OTLP_METRICS_HEADERS=what no metrics are sent with " + secret: "",
	} {
		_, err := FromEnviron([]string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_METRICS_EXPORTER=none", set})
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%s: %v", set, err)
		}
	}
}
