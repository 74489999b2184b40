package deploy

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// program builds spendflush once and returns its path.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "spendflush-deploy-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // other accounts run it, too
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir, "./cmd/spendflush")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as in make build, whatever the tests have
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return filepath.Join(dir, "spendflush"), nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

func built(t testing.TB) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// settingNames are the names of all that `spendflush env` lists.
func settingNames(t testing.TB) (names []string) {
	t.Helper()
	output, err := exec.Command(built(t), "env").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^([A-Z][A-Z0-9_]+) `).FindAllStringSubmatch(string(output), -1) {
		names = append(names, line[1])
	}
	if len(names) < 30 || !slices.Contains(names, "DATABASE_URL") || !slices.Contains(names, "SPENDFLUSH_LOG_FORMAT") {
		t.Fatalf("settings are %q", names)
	}
	return names
}

// special are values for settings that the chart itself has to understand; any text does for the
// others.
var special = map[string]string{
	"SPENDFLUSH_LISTEN": "0.0.0.0:5555", "SPENDFLUSH_DRAIN_DELAY": "7s", "SPENDFLUSH_SHUTDOWN_TIMEOUT": "8s",
	"SPENDFLUSH_METRICS_LISTEN": ":9464",
}

func TestEverySettingOfTheProgramCanBeSet(t *testing.T) {
	t.Parallel()
	// What other versions of the program have must pass as well.
	names := append(settingNames(t), "OTEL_EXPORTER_OTLP_ENDPOINT", "SPENDFLUSH_A_SETTING_TO_COME", "SSL_CERT_FILE", "GOMEMLIMIT")
	for _, journal := range []string{"", "journal: {enabled: true}\n"} {
		plain, secret := "settings:\n", "secretSettings:\n"
		for i, name := range names {
			value := special[name]
			if value == "" {
				value = fmt.Sprintf("value %d: {{ .Values }} 'of' \"it\" #", i)
			}
			plain += fmt.Sprintf("  %s: %q\n", name, value)
			secret += fmt.Sprintf("  %s: {name: secret-%d, key: %s}\n", name, i, strings.ToLower(name))
		}
		image := "image: {repository: r}\n" + journal
		asText := variables(t, container(t, instances(t, render(t, image+plain)).template))
		asSecret := variables(t, container(t, instances(t, render(t, image+secret)).template))
		for i, name := range names {
			want := special[name]
			if want == "" {
				want = fmt.Sprintf("value %d: {{ .Values }} 'of' \"it\" #", i)
			}
			if got := asText[name]; got.Value != want || got.ValueFrom != nil {
				t.Errorf("%s by settings is %v, want %q", name, got, want)
			}
			from := asSecret[name].ValueFrom
			if from == nil || from.SecretKeyRef == nil || from.SecretKeyRef.Name != fmt.Sprintf("secret-%d", i) || from.SecretKeyRef.Key != strings.ToLower(name) {
				t.Errorf("%s by secretSettings is %v", name, asSecret[name])
			}
		}
		if len(asText) != len(names) || len(asSecret) != len(names) {
			t.Errorf("of %d settings %d and %d are set", len(names), len(asText), len(asSecret))
		}
	}
}

func TestNumbersOfSettingsStayAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	set := variables(t, container(t, instances(t, render(t, required+`
settings:
  SPENDFLUSH_QUEUE_MAX_BYTES: 268435456
  SPENDFLUSH_MAX_KEYS: 100000000
  SPENDFLUSH_SHARDS: 4
  USE_REDIS_TRANSACTION_BUFFER: false
  GOGC: 0
  RATIO: 0.25
`, "--set", "settings.SPENDFLUSH_MAX_UNCONFIRMED_BYTES=6710886400")).template))
	for name, want := range map[string]string{
		"SPENDFLUSH_QUEUE_MAX_BYTES": "268435456", "SPENDFLUSH_MAX_KEYS": "100000000", "SPENDFLUSH_SHARDS": "4",
		"USE_REDIS_TRANSACTION_BUFFER": "false", "GOGC": "0", "RATIO": "0.25", "SPENDFLUSH_MAX_UNCONFIRMED_BYTES": "6710886400",
	} {
		if got := set[name].Value; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// freeAddress returns a loopback address on which nothing listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// environment is what a container's program sees; what comes from Secrets and the pod is in given.
func environment(t testing.TB, c *corev1.Container, given map[string]string) (environ []string) {
	t.Helper()
	for name, variable := range variables(t, c) {
		value := variable.Value
		switch from := variable.ValueFrom; {
		case from == nil:
		case from.SecretKeyRef != nil:
			value = given[from.SecretKeyRef.Name+"/"+from.SecretKeyRef.Key]
		case from.FieldRef != nil:
			value = given[from.FieldRef.FieldPath]
		}
		if value == "" {
			t.Errorf("%s has no value", name)
		}
		environ = append(environ, name+"="+value)
	}
	return environ
}

// The program itself is started as the kubelet would, where neither Postgres nor Redis answers.
func TestTheProgramTakesWhatTheChartGivesIt(t *testing.T) {
	t.Parallel()
	address, nobody := freeAddress(t), freeAddress(t)
	w := instances(t, render(t, required+fmt.Sprintf("settings: {SPENDFLUSH_LISTEN: %q, SPENDFLUSH_DRAIN_DELAY: 0s, SPENDFLUSH_SHARDS: 2}\n", address)))
	c := container(t, w.template)
	cmd := exec.Command(built(t), c.Args...)
	cmd.Env = environment(t, c, map[string]string{
		"spendflush/database-url": "postgres://u:p@" + nobody + "/db", "spendflush/redis-url": "redis://" + nobody,
		"spendflush/tokens": "0123456789abcdef0123456789abcdef", "metadata.name": "books-spendflush-7d4b9-x2x",
	})
	p := start(t, cmd)
	if port := fmt.Sprint(":", c.Ports[0].ContainerPort); !strings.HasSuffix(address, port) {
		t.Errorf("the container's port is %s, the program listens on %s", port, address)
	}
	for path, want := range map[string]int{c.LivenessProbe.HTTPGet.Path: http.StatusOK, c.ReadinessProbe.HTTPGet.Path: http.StatusServiceUnavailable} {
		if got := p.ask("http://" + address + path); got != want {
			t.Errorf("%s answers %d, want %d", path, got, want)
		}
	}
	if p.stop(); !strings.Contains(p.log.String(), "books-spendflush-7d4b9-x2x") {
		t.Errorf("the instance has another name:\n%s", p.log.String())
	}
}

// The Job that migrates and the pod of "helm test" find no server either, which is another exit
// status than that of settings which aren't allowed.
func TestTheOtherPodsHaveTheSettingsThatTheyNeed(t *testing.T) {
	t.Parallel()
	nobody := freeAddress(t)
	all := pods(render(t, required+"migrations: {mode: hook}\n"))
	for name, args := range map[string][]string{"books-spendflush-migrate": {"migrate", "up"}, "books-spendflush-status": {"status", "--check"}} {
		c := container(t, all[name])
		if !slices.Equal(c.Args, args) {
			t.Errorf("%s runs %q", name, c.Args)
		}
		cmd := exec.Command(built(t), c.Args...)
		// What the image sets by itself, which the container's own settings go before.
		cmd.Env = append([]string{"SPENDFLUSH_LISTEN=0.0.0.0:4180"}, environment(t, c, map[string]string{
			"spendflush/database-url": "postgres://u:p@" + nobody + "/db", "spendflush/redis-url": "redis://" + nobody,
			"spendflush/tokens": "0123456789abcdef0123456789abcdef",
		})...)
		if output, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(output), "connection refused") {
			t.Errorf("%s: %v\n%s", name, err, output)
		}
	}
}

// process is a program that runs.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   strings.Builder // to be read once it has ended
	ended chan error
}

func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- cmd.Wait() }()
	return p
}

// ask asks until it is answered, and returns the status. The test fails if the program ends.
func (p *process) ask(url string) int {
	p.t.Helper()
	for {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			return response.StatusCode
		}
		select {
		case err := <-p.ended:
			p.t.Fatalf("the program has ended: %v\n%s", err, p.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop asks it to stop, and waits. It holds nothing, so that it must end well.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := <-p.ended; err != nil {
		p.t.Errorf("it ended with %v\n%s", err, p.log.String())
	}
}
