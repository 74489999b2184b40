package tracing

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Settings are what the variables of OpenTelemetry switch on. Everything else of it (endpoints, headers, certificates, samplers,
// limits, intervals) its own SDK reads from them.
type Settings struct {
	Traces, Metrics bool
	sampledNever    bool // OTEL_TRACES_SAMPLER is always_off
	linksLimited    bool // OTEL_SPAN_LINK_COUNT_LIMIT is set
}

// Any says whether anything is switched on.
func (s Settings) Any() bool { return s.Traces || s.Metrics }

// FromEnviron reads the variables, "NAME=value" each. A signal is on if its exporter (OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER)
// is "otlp", or isn't set and an endpoint for it is. The error says what isn't allowed, a line each, joined by newlines.
func FromEnviron(environ []string) (Settings, error) {
	values := map[string]string{}
	for _, one := range environ {
		if name, value, found := strings.Cut(one, "="); found && strings.HasPrefix(name, "OTEL_") {
			values[name] = strings.TrimSpace(value)
		}
	}
	if off, _ := strconv.ParseBool(values["OTEL_SDK_DISABLED"]); off {
		return Settings{}, nil
	}
	var s Settings
	var wrong []string
	s.Traces = isOn(values, "TRACES", []string{"otlp", "none"}, &wrong)
	s.Metrics = isOn(values, "METRICS", []string{"otlp", "none", "prometheus"}, &wrong)
	if s.Traces {
		s.sampledNever = isNever(values["OTEL_TRACES_SAMPLER"], &wrong)
	}
	s.linksLimited = values["OTEL_SPAN_LINK_COUNT_LIMIT"] != ""
	if len(wrong) > 0 {
		return Settings{}, fmt.Errorf("%s", strings.Join(wrong, "\n"))
	}
	return s, nil
}

// samplers are those that the SDK has. It takes another name for none, and would trace all.
var samplers = []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}

// isNever says whether the sampler is the one that traces nothing, and adds to wrong what isn't allowed. Like the SDK it takes
// capitals.
func isNever(sampler string, wrong *[]string) bool {
	name := strings.ToLower(sampler)
	if name != "" && !slices.Contains(samplers, name) {
		*wrong = append(*wrong, fmt.Sprintf("OTEL_TRACES_SAMPLER: %q is not allowed; allowed: %s", sampler, strings.Join(samplers, ", ")))
	}
	return name == "always_off"
}

// isOn says whether a signal is exported, and adds to wrong what isn't allowed.
func isOn(values map[string]string, signal string, allowed []string, wrong *[]string) bool {
	name := "OTEL_" + signal + "_EXPORTER"
	switch value := values[name]; value {
	case "":
		if values["OTEL_EXPORTER_OTLP_ENDPOINT"] == "" && values["OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT"] == "" {
			return false
		}
	case "otlp":
	case "none":
		return false
	case "prometheus":
		if signal == "METRICS" {
			return false // /metrics is served in any case
		}
		fallthrough
	default:
		*wrong = append(*wrong, fmt.Sprintf("%s: %q is not allowed; allowed: %s", name, value, strings.Join(allowed, ", ")))
		return false
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if value := values[name]; value != "" {
			if value != "http/protobuf" {
				*wrong = append(*wrong, fmt.Sprintf("%s: %q is not allowed; allowed: http/protobuf", name, value))
			}
			break
		}
	}
	return true
}
