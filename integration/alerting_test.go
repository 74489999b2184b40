package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shipped writes a file of deploy/ into the directory of a test, with pairs of what stands there
// and what the test puts in its place, and returns where it is. It is fatal if something to be
// replaced isn't there.
func shipped(t testing.TB, dir, path string, pairs ...string) string {
	t.Helper()
	text := readText(t, "../deploy/"+path)
	for old := range slices.Chunk(pairs, 2) {
		if !strings.Contains(text, old[0]) {
			t.Fatalf("deploy/%s has no %q any more", path, old[0])
		}
	}
	file := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(file, []byte(strings.NewReplacer(pairs...).Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// awaitReady waits until the URL is answered with 200.
func (p *process) awaitReady(url string) {
	p.t.Helper()
	eventually(p.t, p.name+" is ready", func() string {
		if !p.running() {
			p.t.Fatal(p.name + " has ended")
		}
		resp, err := http.Get(url)
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
}

// startAlertmanager starts a real one with this configuration, and returns where it listens.
func startAlertmanager(t testing.TB, config string) (address string) {
	t.Helper()
	program, err := exec.LookPath("prometheus-alertmanager") // as Debian calls it
	if err != nil {
		program = "alertmanager"
	}
	address = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	launchProgram(t, program, "Alertmanager", nil, "--config.file="+config, "--web.listen-address="+address,
		"--storage.path="+t.TempDir(), "--cluster.listen-address=").awaitReady("http://" + address + "/-/ready")
	return address
}

// The files of the monitoring profile, with addresses of this machine and without its waits.
func TestAlertsReachTheReceiverOfTheMonitoringProfile(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("watched", "SPENDFLUSH_METRICS_LISTEN=127.0.0.1:0")
	scraped := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(in.logged("metrics without a token"))
	dir := t.TempDir()

	receiverAt := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	receiver := launchProgram(t, "haproxy", "the receiver", nil, "-f", shipped(t, dir, "alertmanager/receiver.cfg", ":9095", receiverAt))
	receiver.awaitReady("http://" + receiverAt)
	alertmanager := startAlertmanager(t, shipped(t, dir, "alertmanager/alertmanager.yml",
		"alert-receiver:9095", receiverAt, "group_wait: 10s", "group_wait: 0s", "group_interval: 1m", "group_interval: 1s"))

	shipped(t, dir, "prometheus/alerts.yml")
	config := shipped(t, dir, "prometheus/prometheus.yml", `"spendflush-1:9464", "spendflush-2:9464", "spendflush-3:9464"`, scraped,
		"alertmanager:9093", alertmanager, "interval: 15s", "interval: 1s")
	prom := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	launchProgram(t, "prometheus", "Prometheus", nil, "--config.file="+config, "--web.listen-address="+prom,
		"--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--log.level=warn").awaitReady("http://" + prom + "/-/ready")

	s.brimful()
	in.post(onTop) // Postgres refuses it: it goes to quarantine
	firing := receiver.said(&receiver.stdout, "the alert", func(line string) bool { return strings.Contains(line, `"status":"firing"`) })
	for _, want := range []string{
		`"alertname":"SpendflushQuarantined"`, `"job":"spendflush"`, `"severity":"warning"`, "runbook.md#spendflushquarantined",
		"The quarantine of spendflush holds 1 ent",
	} {
		if !strings.Contains(firing, want) {
			t.Errorf("%q is missing in %s", want, firing)
		}
	}
}

// alertAs is how Alertmanager is told of an alert.
const alertAs = `[{"labels": {"alertname": "SpendflushBehind", "job": "books-eu", "severity": %q, "instance": "pod-1:9464", "shard": "3"},
	"annotations": {"summary": "books-eu is 61s behind.", "description": "What to know.", "runbook_url": "https://spend.example.com/docs/runbook#spendflushbehind"}}]`

func TestAlertsAreSaidAsDocumentedInSlackAndPagerDuty(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		service, severity, secret string
		want                      []string
		never                     string
	}{
		{"slack", "critical", "slack-url", []string{`"channel":"#spendflush"`, "SpendflushBehind (books-eu)", `\u003c!here\u003e books-eu is 61s behind.\nWhat to know.`, "Instance: pod-1:9464", "Shard: 3"}, "no value"},
		{"slack", "warning", "slack-url", []string{"SpendflushBehind (books-eu)", "books-eu is 61s behind."}, "!here"},
		{"pagerduty", "critical", "pagerduty-key", []string{`"routing_key":"the-key"`, `"severity":"critical"`, `"summary":"SpendflushBehind (books-eu)"`, "What to know."}, "no value"},
		{"pagerduty", "warning", "pagerduty-key", []string{`"routing_key":"the-key"`, `"severity":"warning"`}, `"severity":"critical"`},
	} {
		t.Run(c.service+" "+c.severity, func(t *testing.T) {
			said := make(chan string, 10)
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				w.WriteHeader(map[string]int{"slack": http.StatusOK, "pagerduty": http.StatusAccepted}[c.service])
				_, _ = io.WriteString(w, "ok")
				said <- string(body)
			}))
			t.Cleanup(service.Close)

			dir := t.TempDir()
			secret := filepath.Join(dir, c.secret)
			if err := os.WriteFile(secret, []byte(map[string]string{"slack": service.URL, "pagerduty": "the-key"}[c.service]), 0o600); err != nil {
				t.Fatal(err)
			}
			shipped(t, dir, "alertmanager/spendflush.tmpl")
			pairs := []string{"/etc/alertmanager/" + c.secret, secret, "group_wait: 30s", "group_wait: 0s"}
			if c.service == "pagerduty" {
				pairs = append(pairs, "\nroute:", fmt.Sprintf("\nglobal: {pagerduty_url: %q}\nroute:", service.URL))
			}
			address := startAlertmanager(t, shipped(t, dir, "alertmanager/"+c.service+".yml", pairs...))
			resp, err := http.Post("http://"+address+"/api/v2/alerts", "application/json", strings.NewReader(fmt.Sprintf(alertAs, c.severity)))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			resp.Body.Close()

			body := ""
			eventually(t, c.service+" is told", func() string {
				select {
				case body = <-said:
					return ""
				default:
					return "nothing came"
				}
			})
			for _, want := range append(c.want, "https://spend.example.com/docs/runbook#spendflushbehind") {
				if !strings.Contains(body, want) {
					t.Errorf("%q is missing in %s", want, body)
				}
			}
			if strings.Contains(body, c.never) {
				t.Errorf("%q is in %s", c.never, body)
			}
		})
	}
}

func TestAlertsAreSentByConfigurationsWithoutFault(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../deploy/alertmanager/*.yml")
	if err != nil || len(files) != 3 {
		t.Fatalf("configurations are %q, %v", files, err)
	}
	if output, err := exec.Command("amtool", append([]string{"check-config"}, files...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	// What isn't routed by its severity would go to the receiver for what can wait.
	for _, file := range files {
		for severity, want := range map[string]map[string]string{
			"critical": {"alertmanager.yml": "try-out", "slack.yml": "slack-critical", "pagerduty.yml": "on-call"},
			"warning":  {"alertmanager.yml": "try-out", "slack.yml": "slack", "pagerduty.yml": "by-day"},
		} {
			output, err := exec.Command("amtool", "config", "routes", "test", "--config.file="+file, "severity="+severity).Output()
			if got := strings.TrimSpace(string(output)); err != nil || got != want[filepath.Base(file)] {
				t.Errorf("%s: what is %s goes to %q, %v", file, severity, got, err)
			}
		}
	}
	if output, err := exec.Command("haproxy", "-c", "-f", "../deploy/alertmanager/receiver.cfg").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}
