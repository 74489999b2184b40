package integration

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	alertsFile  = "../deploy/prometheus/alerts.yml"
	runbookFile = "../docs/runbook.md"
	runbookURL  = "https://github.com/spendflush/spendflush/blob/main/docs/runbook.md"
)

// promtool runs Prometheus's own tool in the directory of the rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir = "../deploy/prometheus"
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, output)
	}
}

// readText returns a file of the repository.
func readText(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// captures returns what the group of the expression matches, each text once, sorted.
func captures(expression, text string) (found []string) {
	for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func alertNames(t testing.TB) []string {
	t.Helper()
	names := captures(`(?m)^ *- alert: (\S+)$`, readText(t, alertsFile))
	if len(names) == 0 {
		t.Fatal("there are no alerts")
	}
	return names
}

func TestAlertsFireWhenTheyShouldAndResolve(t *testing.T) {
	t.Parallel()
	cases := []string{"alerts_test.yml", "alerts_slow_test.yml"}
	promtool(t, "check", "config", "--syntax-only", "prometheus.yml")
	promtool(t, append([]string{"test", "rules"}, cases...)...)
	text := ""
	for _, name := range cases {
		text += readText(t, "../deploy/prometheus/"+name)
	}
	// The cases would pass with rules that go by the name of the job, if it had it there.
	if jobs := captures(`job="([^"]+)"`, text); len(jobs) < 2 || slices.Contains(jobs, "spendflush") {
		t.Errorf("the jobs of the cases are %q; none may have the name that prometheus.yml gives it", jobs)
	}
	// promtool is content with an alert that nobody tests.
	for _, name := range alertNames(t) {
		expectations := captureAll(`alertname: `+name+`\n +exp_alerts:(.*)`, text)
		if !slices.Contains(expectations, "") || len(expectations) < 3 || expectations[len(expectations)-1] != " []" {
			t.Errorf("%s: the cases must see it silent, firing and silent again", name)
		}
	}
}

// captureAll is captures in the order of the text, with repetitions.
func captureAll(expression, text string) (found []string) {
	for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

func TestTheRunbookHasASectionForEachAlertAndNoOther(t *testing.T) {
	t.Parallel()
	_, part, found := strings.Cut(readText(t, runbookFile), "\n# Alerts\n")
	if !found {
		t.Fatalf("%s has no part # Alerts", runbookFile)
	}
	part, _, _ = strings.Cut(part, "\n# ")
	if sections := captures(`(?m)^## (.+)$`, part); !slices.Equal(sections, alertNames(t)) {
		t.Errorf("the runbook has sections on\n%q, but there are the alerts\n%q", sections, alertNames(t))
	}
	anchors := map[string]bool{}
	for _, heading := range captures(`(?m)^#+ (.+)$`, readText(t, runbookFile)) {
		anchors[strings.ReplaceAll(strings.ToLower(regexp.MustCompile(`[^\w -]`).ReplaceAllString(heading, "")), " ", "-")] = true
	}
	links := readText(t, dashboardFile) + readText(t, alertsFile) + readText(t, "../README.md")
	for _, anchor := range captures(`runbook\.md#([\w-]+)`, links) {
		if !anchors[anchor] {
			t.Errorf("a link goes to #%s of the runbook, which isn't there", anchor)
		}
	}
}

func TestComposeMountsWhatIsThere(t *testing.T) {
	t.Parallel()
	mounted := captures(`- "?\./(deploy/[^:]+):`, readText(t, "../compose.yaml"))
	if !slices.Contains(mounted, "deploy/prometheus/alerts.yml") || !slices.Contains(mounted, "deploy/grafana/spendflush.json") {
		t.Errorf("compose.yaml mounts %q", mounted)
	}
	for _, path := range mounted {
		if _, err := os.Stat("../" + path); err != nil {
			t.Error(err)
		}
	}
}
