package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// prometheus is a real one that scrapes instances and evaluates the rules.
type prometheus struct {
	*process
	stack *stack
	url   string
}

func (s *stack) startPrometheus(instances ...*instance) *prometheus {
	s.t.Helper()
	rules, err := filepath.Abs(alertsFile)
	if err != nil {
		s.t.Fatal(err)
	}
	var targets []string
	for _, in := range instances {
		targets = append(targets, strings.TrimPrefix(in.url, "http://"))
	}
	dir := s.t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: spendflush
    authorization: {credentials: %s}
    static_configs: [{targets: [%s]}]
`, rules, token, strings.Join(targets, ", "))
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(s.t))
	p := launchProgram(s.t, "prometheus", "prometheus", nil, "--config.file="+file, "--web.listen-address="+address,
		"--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--log.level=warn")
	prom := &prometheus{process: p, stack: s, url: "http://" + address}
	eventually(s.t, "Prometheus is ready", func() string {
		if !p.running() {
			s.t.Fatal("Prometheus has ended")
		}
		if status, answer, err := s.do(http.MethodGet, prom.url+"/-/ready", "", nil); status != http.StatusOK {
			return fmt.Sprint(status, answer, err)
		}
		return ""
	})
	return prom
}

// ask asks an API of Prometheus and says what is wrong if it doesn't succeed.
func (p *prometheus) ask(path string, parameters url.Values, into any) (fault string) {
	status, answer, err := p.stack.do(http.MethodGet, p.url+"/api/v1/"+path+"?"+parameters.Encode(), "", nil)
	if err != nil {
		return err.Error()
	}
	var envelope struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal([]byte(answer), &envelope); err != nil || envelope.Status != "success" {
		return fmt.Sprintf("%d %s", status, answer)
	}
	if err := json.Unmarshal(envelope.Data, into); err != nil {
		return err.Error()
	}
	return ""
}

// rule is an alert, or a recording rule.
type rule struct {
	Name, Query, Type, Health, LastError, State string
	Labels, Annotations                         map[string]string
}

// awaitRules waits until every rule was evaluated, and returns them.
func (p *prometheus) awaitRules() (rules []rule) {
	p.t.Helper()
	eventually(p.t, "all rules are evaluated", func() string {
		var found struct{ Groups []struct{ Rules []rule } }
		if fault := p.ask("rules", nil, &found); fault != "" {
			return fault
		}
		rules = nil
		for _, g := range found.Groups {
			rules = append(rules, g.Rules...)
		}
		for _, r := range rules {
			if r.Health != "ok" {
				return fmt.Sprintf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
		if len(rules) == 0 {
			return "there are none"
		}
		return ""
	})
	return rules
}

// series returns the labels of each metric that Prometheus has.
func (p *prometheus) series() map[string]map[string]bool {
	p.t.Helper()
	var all []map[string]string
	if fault := p.ask("series", url.Values{"match[]": {`{__name__=~".+"}`}}, &all); fault != "" {
		p.t.Fatal(fault)
	}
	labels := map[string]map[string]bool{}
	for _, one := range all {
		name := one["__name__"]
		if labels[name] == nil {
			labels[name] = map[string]bool{}
		}
		for label := range one {
			labels[name][label] = true
		}
	}
	return labels
}

// watched is an instance with everything switched on that metrics tell of, on servers of its own.
type watched struct {
	*instance
	postgres *servers.Postgres
}

// startWatched starts it, and gives it some traffic and a row in quarantine.
func startWatched(t *testing.T) watched {
	t.Helper()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	if err := s.redisClient().ConfigSet(t.Context(), "maxmemory", "512mb").Err(); err != nil {
		t.Fatal(err)
	}
	in := s.start("only", "SPENDFLUSH_JOURNAL_DIR="+filepath.Join(t.TempDir(), "journal"), "SPENDFLUSH_REWIND_WINDOW=1m",
		"SPENDFLUSH_AUDIT_INTERVAL=1s")
	s.brimful()
	in.post(onTop)
	return watched{in, postgres}
}

func TestPrometheusFindsWhatAlertsDashboardAndDocumentationName(t *testing.T) {
	t.Parallel()
	in := startWatched(t)
	prom := in.stack.startPrometheus(in.instance)
	rules := prom.awaitRules()
	board := readDashboard(t)
	expressions := board.expressions()

	// Prometheus parses every expression and finds something: joins fit, and metrics have the
	// labels that they are asked for.
	for _, e := range expressions {
		eventually(t, fmt.Sprintf("%s: %s finds something", e.where, e.text), func() string {
			var found struct{ Result []json.RawMessage }
			if fault := prom.ask("query", url.Values{"query": {e.text}}, &found); fault != "" {
				return fault
			}
			if len(found.Result) == 0 {
				return "nothing is found"
			}
			return ""
		})
	}
	known := prom.series()
	for _, r := range rules {
		expressions = append(expressions, expression{"rule " + r.Name, r.Query})
	}
	for _, e := range expressions {
		for _, fault := range missing(namesIn(e.text), known) {
			t.Errorf("%s: %s", e.where, fault)
		}
	}
	checkAnnotations(t, rules)
	checkDocumented(t, known)

	if firing := prom.firing(); !slices.Equal(firing, []string{"SpendflushQuarantined"}) {
		t.Errorf("with a row in quarantine and all else in order, these alerts fire: %q", firing)
	}
	in.stack.tamper()
	eventually(t, "the next audit finds what somebody changed, and an alert fires", func() string {
		if firing := prom.firing(); !slices.Contains(firing, "SpendflushAuditFailed") {
			return fmt.Sprintf("%q fire", firing)
		}
		return ""
	})
	in.checkServers()
}

// firing returns the names of the alerts that fire.
func (p *prometheus) firing() (names []string) {
	p.t.Helper()
	for _, r := range p.awaitRules() {
		if r.State == "firing" {
			names = append(names, r.Name)
		}
	}
	slices.Sort(names)
	return names
}

// checkServers looks whether metrics follow what becomes of Redis and Postgres at once. Postgres is
// gone afterwards.
func (in watched) checkServers() {
	in.t.Helper()
	books := []string{"spendflush_quarantine_open", "spendflush_lost_batches_open", "spendflush_audit_ok", "spendflush_audit_timestamp_seconds",
		"spendflush_ids", "spendflush_ids_bytes", "spendflush_ids_current_seconds", "spendflush_ids_tended_seconds"}
	// A busy machine may take longer than a scrape waits; hence not at the first look.
	scraped := func(what string, postgresUp, mayEvict float64) {
		in.t.Helper()
		eventually(in.t, what, func() string {
			m := in.metrics()
			for name, want := range map[string]float64{
				"spendflush_postgres_up": postgresUp, "spendflush_queue_up": 1, "spendflush_redis_may_evict": mayEvict,
				"spendflush_redis_memory_bytes_limit": 512 << 20, "spendflush_id_window_seconds": 36 * 24 * 60 * 60,
			} {
				if got, ok := m[name]; got != want || !ok {
					return fmt.Sprintf("%s is %v, told: %t", name, got, ok)
				}
			}
			for _, name := range books {
				if m.has(name) != (postgresUp == 1) {
					return fmt.Sprintf("%s told: %t", name, m.has(name))
				}
			}
			return ""
		})
	}
	scraped("all is in order", 1, 0)
	if err := in.stack.redisClient().ConfigSet(in.t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		in.t.Fatal(err)
	}
	if err := in.postgres.Kill(); err != nil {
		in.t.Fatal(err)
	}
	scraped("Postgres is gone and Redis evicts", 0, 1)
}

// missing says what an expression names and Prometheus doesn't have.
func missing(w wanted, known map[string]map[string]bool) (faults []string) {
	for metric, labels := range w.metrics {
		if known[metric] == nil {
			faults = append(faults, "there is no metric "+metric)
			continue
		}
		for _, label := range labels {
			if !known[metric][label] {
				faults = append(faults, fmt.Sprintf("metric %s has no label %s", metric, label))
			}
		}
	}
	for _, label := range w.grouping {
		found := false
		for metric := range w.metrics {
			found = found || known[metric][label]
		}
		if !found {
			faults = append(faults, "no metric in it has a label "+label)
		}
	}
	return faults
}

func checkAnnotations(t *testing.T, rules []rule) {
	t.Helper()
	alerts := 0
	for _, r := range rules {
		if r.Type != "alerting" {
			continue
		}
		alerts++
		if severity := r.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s: severity %q", r.Name, severity)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has no summary or no description", r.Name)
		}
		if want := runbookURL + "#" + strings.ToLower(r.Name); r.Annotations["runbook_url"] != want {
			t.Errorf("%s has the runbook_url %q instead of %q", r.Name, r.Annotations["runbook_url"], want)
		}
	}
	if alerts == 0 {
		t.Error("Prometheus knows of no alert")
	}
}

// checkDocumented compares docs/metrics.md with what the instance tells.
func checkDocumented(t *testing.T, known map[string]map[string]bool) {
	t.Helper()
	var told []string
	for name := range known {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && known[base+"_bucket"] != nil {
				name = base
			}
		}
		if (strings.HasPrefix(name, "spendflush_") || strings.HasPrefix(name, "litellm_")) && !slices.Contains(told, name) {
			told = append(told, name)
		}
	}
	slices.Sort(told)
	if documented := captures("(?m)^\\| `((?:spendflush|litellm)_\\w+)`", readText(t, "../docs/metrics.md")); !slices.Equal(documented, told) {
		t.Errorf("docs/metrics.md has\n%q, but an instance tells\n%q", documented, told)
	}
}
