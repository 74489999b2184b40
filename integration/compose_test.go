package integration

import (
	"context"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// composed returns the parts of compose.yaml that describe a service, by its name.
func composed(t *testing.T) map[string]string {
	t.Helper()
	_, text, _ := strings.Cut(readText(t, "../compose.yaml"), "\nservices:\n")
	text, _, _ = strings.Cut(text, "\n# Prometheus reaches")
	services := map[string]string{}
	parts := regexp.MustCompile(`(?m)^  ([a-z0-9-]+):$`).FindAllStringSubmatchIndex(text, -1)
	for i, at := range parts {
		end := len(text)
		if i+1 < len(parts) {
			end = parts[i+1][0]
		}
		services[text[at[2]:at[3]]] = text[at[1]:end]
	}
	return services
}

func TestComposeHasNoDefaultSecrets(t *testing.T) {
	t.Parallel()
	text := readText(t, "../compose.yaml")
	secrets := captures(`[^$]\$\{((?:\w+_)?(?:TOKENS|PASSWORD)[^}]*)\}`, text)
	if len(secrets) < 4 {
		t.Fatalf("found are %q", secrets)
	}
	for _, secret := range secrets {
		if !strings.Contains(secret, ":?") {
			t.Errorf("${%s} may be left out", secret)
		}
	}
	if strings.Contains(text, "change-me") || strings.Contains(text, "protected-mode") {
		t.Error("there is a public secret, or a Redis open to all")
	}
	for _, path := range []string{"../.dockerignore", "../.gitignore"} {
		if !strings.Contains("\n"+readText(t, path), "\n.env*\n") {
			t.Errorf("%s doesn't leave out .env, which has the secrets", path)
		}
	}
}

func TestComposeKeepsTheMonitoringFromTheDatabases(t *testing.T) {
	t.Parallel()
	services := composed(t)
	for name, want := range map[string]string{
		"postgres": "[data]", "redis": "[data]", "proxy": "[front]", "prometheus": "[front, monitoring]", "grafana": "[monitoring]",
		"alertmanager": "[monitoring]", "alert-receiver": "[monitoring]",
	} {
		if got := captures(`(?m)^    networks: (.*)$`, services[name]); len(got) != 1 || got[0] != want {
			t.Errorf("%s is in %q, want %s", name, got, want)
		}
	}
	if !strings.Contains(readText(t, "../compose.yaml"), "\n  data: {internal: true}\n") {
		t.Error("the network of the databases isn't internal")
	}
}

func TestTheRedisOfComposeWantsItsPasswordAndTellsItToNobody(t *testing.T) {
	t.Parallel()
	_, script, found := strings.Cut(composed(t)["redis"], "      - |\n")
	script, _, _ = strings.Cut(script, "    environment:")
	if !found || !strings.Contains(script, "redis-server -") {
		t.Fatalf("the command is %q", script)
	}
	script = strings.NewReplacer("        ", "", "$$", "$").Replace(script)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	const password = "the-password-of-compose"
	script = strings.Replace(script, "redis-server -", "redis-server - --port "+port+" --bind 127.0.0.1", 1)
	p := prepare(t, "/bin/sh", "redis", []string{"REDISCLI_AUTH=" + password}, "-c", script)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.start()
	ping := func(password string) error {
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port, Password: password, MaxRetries: -1})
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return client.Ping(ctx).Err()
	}
	eventually(t, "Redis answers", func() string {
		if err := ping(password); err != nil {
			return err.Error()
		}
		return ""
	})
	if err := ping(""); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a password: %v", err)
	}
	arguments, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(p.cmd.Process.Pid)).Output()
	if err != nil || !strings.Contains(string(arguments), "redis-server") || strings.Contains(string(arguments), password) {
		t.Errorf("everybody can read %q, %v", arguments, err)
	}
}

func TestTheProxyOfComposeSaysWhetherARequestCameOverTLS(t *testing.T) {
	t.Parallel()
	set := captures(`(?m)^\thttp-request set-header X-Forwarded-Proto (.*)$`, readText(t, "../deploy/haproxy.cfg"))
	if len(set) != 2 || set[0] != "http if !{ ssl_fc }" || set[1] != "https if { ssl_fc }" {
		t.Errorf("it sets %q", set)
	}
}
