package integration

import (
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
)

// samples are the metrics of one scrape: by name and labels, as the text has them.
type samples map[string]float64

// metrics scrapes the instance.
func (in *instance) metrics() samples {
	in.t.Helper()
	m, err := in.scrape()
	if err != nil {
		in.t.Fatal(err)
	}
	return m
}

func (in *instance) scrape() (samples, error) {
	status, text, err := in.stack.do(http.MethodGet, in.url+"/metrics", "", nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("%s: /metrics: %d %w %.300s", in.name, status, err, text)
	}
	return parseSamples(text)
}

func parseSamples(text string) (samples, error) {
	m := samples{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			return nil, fmt.Errorf("no value in %q", line)
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		m[line[:at]] = value
	}
	return m, nil
}

// sum adds up the samples of a name whose labels hold all of these texts, such as `path="queue"`.
func (m samples) sum(name string, labels ...string) (sum float64) {
	for key, value := range m {
		bare, rest, _ := strings.Cut(key, "{")
		matches := bare == name
		for _, label := range labels {
			matches = matches && strings.Contains(rest, label)
		}
		if matches {
			sum += value
		}
	}
	return sum
}

// has reports whether there is a sample of the name.
func (m samples) has(name string) bool {
	for key := range m {
		if bare, _, _ := strings.Cut(key, "{"); bare == name {
			return true
		}
	}
	return false
}

// checkMetrics lets Prometheus's own tool look at the metrics, and looks for those that the
// documents name.
func (in *instance) checkMetrics() {
	in.t.Helper()
	_, text := in.get("/metrics")
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if output, err := promtool.CombinedOutput(); err != nil {
		in.t.Errorf("%s: promtool check metrics: %v\n%s", in.name, err, output)
	}
	m := in.metrics()
	for _, name := range []string{
		"litellm_pod_lock_manager_size",
		"litellm_in_memory_spend_update_queue_size", "litellm_in_memory_daily_spend_update_queue_size",
		"litellm_redis_spend_update_queue_size", "litellm_redis_daily_spend_update_queue_size",
	} {
		if !m.has(name) {
			in.t.Errorf("%s: metric %s is missing", in.name, name)
		}
	}
}
