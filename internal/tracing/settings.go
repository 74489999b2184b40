package tracing

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Settings are what the variables of OpenTelemetry switch on. Everything else of it (endpoints,
// headers, certificates, samplers, limits, intervals) its own SDK reads from them; what it would
// show of a secret, or take for something else, is refused before.
type Settings struct {
	Traces, Metrics bool
	sampledNever    bool // OTEL_TRACES_SAMPLER is always_off
	linksLimited    bool // OTEL_SPAN_LINK_COUNT_LIMIT is set
}

// Any says whether anything is switched on.
func (s Settings) Any() bool { return s.Traces || s.Metrics }

// FromEnviron reads the variables, "NAME=value" each. A signal is on if its exporter
// (OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER) is "otlp", or isn't set and an endpoint for it is.
// The error says what isn't allowed, a line each, joined by newlines.
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
		slices.Sort(wrong)
		return Settings{}, fmt.Errorf("%s", strings.Join(slices.Compact(wrong), "\n")) // some count for both signals
	}
	return s, nil
}

// samplers are those that the SDK has. It takes another name for none, and would trace all.
var samplers = []string{"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}

// isNever says whether the sampler is the one that traces nothing, and adds to wrong what isn't
// allowed. Like the SDK it takes capitals.
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
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_" + signal + "_"} {
		checkEndpoint(prefix+"ENDPOINT", values, wrong)
		checkHeaders(prefix+"HEADERS", values, wrong)
	}
	return true
}

// checkEndpoint adds to wrong what is no URL that can be sent to. The SDK would log it, with a
// password that it may have, and send to localhost.
func checkEndpoint(name string, values map[string]string, wrong *[]string) {
	if values[name] == "" {
		return
	}
	if at, err := url.Parse(values[name]); err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		*wrong = append(*wrong, name+": not a URL with http:// or https:// and a host; its value is not shown")
	}
}

var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

// checkHeaders adds to wrong what isn't name=value, with commas between them, percent-encoded. The
// SDK would log it, with the secret that it mostly has, and send without it.
func checkHeaders(name string, values map[string]string, wrong *[]string) {
	n := 0
	for one := range strings.SplitSeq(values[name], ",") {
		n++
		header, value, found := strings.Cut(one, "=")
		if header = strings.TrimSpace(header); header == "" && !found {
			continue
		}
		if _, err := url.PathUnescape(value); err != nil || !found || !headerName.MatchString(header) {
			*wrong = append(*wrong, fmt.Sprintf("%s: number %d is not name=value, percent-encoded; its value is not shown", name, n))
		}
	}
}
