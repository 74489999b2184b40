// Package deploy tests what is in deploy/ and what a release is made of: the Helm chart, the unit
// of systemd, packages. It needs no Postgres and no Redis.
package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

const (
	root  = "../.."
	chart = root + "/deploy/helm/spendflush"
)

// readText returns a file of the repository.
func readText(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// made is a variable of the Makefile, which names each tool at one version.
func made(t testing.TB, name string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + ` := (\S+)$`).FindStringSubmatch(readText(t, "Makefile"))
	if found == nil {
		t.Fatalf("the Makefile has no %s", name)
	}
	return found[1]
}

var building sync.Mutex // guards bin/tools of this process

// tool returns the path of a Go program that the Makefile names under this variable. It is built
// into bin/tools if it isn't there yet.
func tool(t testing.TB, variable string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	module, version, found := strings.Cut(made(t, variable), "@")
	if !found {
		t.Fatalf("%s has no version", variable)
	}
	dir, err := filepath.Abs(filepath.Join(root, "bin", "tools", version))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, filepath.Base(module))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "install", "-trimpath", module+"@"+version)
	cmd.Dir = t.TempDir() // outside of any module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-buildvcs=false", "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go install %s@%s: %v\n%s", module, version, err, output)
	}
	return path
}

// helm runs it without a home, a cluster or a network.
func helm(t testing.TB, args ...string) (output, said string, err error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(tool(t, "HELM"), args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + filepath.Join(home, "none")}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// template renders the chart with these values, a YAML document.
func template(t testing.TB, values string, args ...string) (rendered, said string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return helm(t, append([]string{"template", "books", chart, "--namespace", "money", "--values", file}, args...)...)
}

// required is the least that the chart wants to be told.
const required = `
image: {repository: registry.example/spendflush}
secretSettings:
  DATABASE_URL: {name: spendflush, key: database-url}
  REDIS_URL: {name: spendflush, key: redis-url}
  SPENDFLUSH_TOKENS: {name: spendflush, key: tokens}
`

// everything switches on all that the chart can do.
const everything = required + `
replicas: 5
settings: {SPENDFLUSH_SHARDS: 4, SPENDFLUSH_DRAIN_DELAY: 1m30s, SPENDFLUSH_SHUTDOWN_TIMEOUT: 1500ms, SPENDFLUSH_LISTEN: "0.0.0.0:8443"}
journal: {enabled: true, size: 5Gi, storageClassName: fast}
migrations:
  mode: hook
  secretSettings: {DATABASE_URL: {name: owner, key: url}}
extraPorts: [{name: metrics, port: 9180}]
extraEnv: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
envFrom: [{configMapRef: {name: more}}]
extraVolumes: [{name: ca, secret: {secretName: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca, readOnly: true}]
imagePullSecrets: [{name: registry}]
priorityClassName: high
podLabels: {cost: books}
podAnnotations: {note: "1"}
nodeSelector: {disk: ssd}
tolerations: [{key: books, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app.kubernetes.io/name: spendflush}}}
serviceAccount: {name: books, annotations: {role: books}}
service: {type: LoadBalancer, port: 443, annotations: {lb: internal}}
networkPolicy:
  enabled: true
  from: [{namespaceSelector: {matchLabels: {team: gateways}}}]
  egress: [{ports: [{port: 5432}, {port: 6379}, {port: 53, protocol: UDP}]}]
serviceMonitor: {enabled: true, labels: {release: prometheus}, authorization: {name: spendflush, key: metrics}, scheme: https, tlsConfig: {insecureSkipVerify: true}}
dashboards: {enabled: true, annotations: {folder: Money}}
probes: {scheme: HTTPS, pathPrefix: /billing}
prometheusRule:
  enabled: true
  labels: {release: prometheus}
`

// matrix are values as people set them.
var matrix = map[string]string{
	"only what is required":     required,
	"everything":                everything,
	"a journal":                 required + "journal: {enabled: true}\n",
	"migrations by hook":        required + "migrations: {mode: hook}\n",
	"monitoring":                required + "serviceMonitor: {enabled: true}\nprometheusRule: {enabled: true}\ndashboards: {enabled: true}\n",
	"only alerts":               required + "prometheusRule: {enabled: true}\n",
	"documents of its own":      required + "prometheusRule: {enabled: true, docsURL: \"https://spend.example.com/docs/\"}\n",
	"a network policy":          required + "networkPolicy: {enabled: true}\n",
	"an autoscaler":             required + "replicas: null\n",
	"one instance":              required + "replicas: 1\npodDisruptionBudget: {enabled: false}\n",
	"by digest":                 strings.Replace(required, "spendflush}", "spendflush, digest: sha256:"+strings.Repeat("0123456789abcdef", 4)+"}", 1),
	"an account of one's own":   required + "serviceAccount: {create: false, name: mine}\n",
	"neither spread nor limits": required + "topologySpreadConstraints: []\nresources: {limits: null}\n",
	"time for a stop":           required + "terminationGracePeriodSeconds: 3600\n",
	"metrics without a token":   required + "settings: {SPENDFLUSH_METRICS_LISTEN: \":9464\"}\nserviceMonitor: {enabled: true}\nnetworkPolicy: {enabled: true}\n",
	"TLS":                       required + "tls: {secretName: spend-tls}\nserviceMonitor: {enabled: true}\n",
	"all in one ConfigMap":      "image: {repository: r}\nenvFrom: [{configMapRef: {name: all}}]\n",
}

func TestTheChartIsWithoutFaultToHelm(t *testing.T) {
	t.Parallel()
	for name, values := range matrix {
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
			t.Fatal(err)
		}
		output, said, err := helm(t, "lint", "--strict", "--quiet", chart, "--values", file)
		if err != nil || strings.Contains(output, "[WARNING]") || strings.Contains(output, "[ERROR]") {
			t.Errorf("%s: %v\n%s%s", name, err, output, said)
		}
	}
}

func TestTheChartNamesWhatIsMissingOrNotAllowed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ values, want string }{
		{"", "image.repository: name where you pushed the image"},
		{"image: {repository: r}\n", "secretSettings.DATABASE_URL: name the Secret that has it"},
		{required + "settings: {DATABASE_URL: postgres://x}\n", "DATABASE_URL is both in settings and in secretSettings"},
		{required + "terminationGracePeriodSeconds: 34\n", "terminationGracePeriodSeconds: 34 is not allowed; SPENDFLUSH_DRAIN_DELAY and SPENDFLUSH_SHUTDOWN_TIMEOUT take 35 seconds"},
		{required + "settings: {SPENDFLUSH_DRAIN_DELAY: soon}\n", `SPENDFLUSH_DRAIN_DELAY: "soon" is not allowed; allowed are durations such as 5s`},
		{required + "settings: {SPENDFLUSH_LISTEN: nowhere}\n", `SPENDFLUSH_LISTEN: "nowhere" is not allowed; it must end in a port`},
		{required + "settings: {SPENDFLUSH_METRICS_LISTEN: nowhere}\n", `SPENDFLUSH_METRICS_LISTEN: "nowhere" is not allowed; it must end in a port`},
		{required + "setings: {SPENDFLUSH_SHARDS: 2}\n", "setings"},
		{required + "settings: {SPENDFLUSH_SHARDS: [2]}\n", "SPENDFLUSH_SHARDS"},
		{required + "settings: {spend-flush: 2}\n", "spend-flush"},
		{"image: {repository: r, digest: sha256:12}\n", "/image/digest"},
		{required + "migrations: {mode: later}\n", "mode"},
		{required + "secretSettings: {REDIS_URL: {name: a}}\n", "key"},
		{required + "journal: {enabled: true}\npodSecurityContext: {fsGroup: 1000}\n", "podSecurityContext.fsGroup: allowed with a journal is the number of runAsUser"},
		{required + "journal: {enabled: true}\npodSecurityContext: {fsGroupChangePolicy: Always}\n", "allowed with a journal is OnRootMismatch"},
		{required + "probes: {pathPrefix: billing/}\n", "pathPrefix"},
		{required + "tls: {secret: a}\n", "tls"},
		{required + "prometheusRule: {enabled: true, docsURL: spend.example.com}\n", "/prometheusRule/docsURL"},
	} {
		rendered, said, err := template(t, c.values)
		if err == nil {
			t.Errorf("is taken, without %q:\n%s\n%s", c.want, c.values, rendered)
		} else if !strings.Contains(said, c.want) {
			t.Errorf("%q is missing in what is said of\n%s\n%s", c.want, c.values, said)
		}
	}
}

// What helm packages must be whole without the rest of the repository, and its files those of
// deploy/.
func TestThePackagedChartIsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if output, said, err := helm(t, "package", chart, "--destination", dir); err != nil {
		t.Fatal(err, output, said)
	}
	packages, _ := filepath.Glob(filepath.Join(dir, "spendflush-*.tgz"))
	if len(packages) != 1 {
		t.Fatalf("packages are %q", packages)
	}
	values := filepath.Join(dir, "values.yaml")
	if err := os.WriteFile(values, []byte(everything), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--namespace", "money", "--values", values}
	packaged, said, err := helm(t, append([]string{"template", "books", packages[0]}, args...)...)
	if err != nil {
		t.Fatal(err, said)
	}
	if unpacked, said, err := template(t, everything); err != nil || packaged != unpacked {
		t.Errorf("the packaged chart renders something else: %v %s", err, said)
	}
	if !strings.Contains(packaged, "kind: PrometheusRule") {
		t.Error("there are no rules in it")
	}
}

func TestTheFilesOfTheChartAreThoseOfDeploy(t *testing.T) {
	t.Parallel()
	for copied, source := range map[string]string{
		"alerts.yml": "deploy/prometheus/alerts.yml", "dashboard.json": "deploy/grafana/spendflush.json",
	} {
		if readText(t, "deploy/helm/spendflush/files/"+copied) != readText(t, source) {
			t.Errorf("deploy/helm/spendflush/files/%s isn't %s any more: make chart-files copies it", copied, source)
		}
	}
	if files, err := os.ReadDir(chart + "/files"); err != nil || len(files) != 2 {
		t.Errorf("files are %v, %v: each must be looked at here", files, err)
	}
}

// The chart and the program are released together.
func TestTheChartHasTheVersionOfTheRelease(t *testing.T) {
	t.Parallel()
	released := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)`).FindStringSubmatch(readText(t, "CHANGELOG.md"))
	if released == nil {
		t.Fatal("the changelog has no version")
	}
	text := readText(t, "deploy/helm/spendflush/Chart.yaml")
	for _, want := range []string{"\nversion: " + released[1] + "\n", fmt.Sprintf("\nappVersion: %q\n", released[1])} {
		if !strings.Contains(text, want) {
			t.Errorf("Chart.yaml lacks %q: the changelog's latest version is %s", want, released[1])
		}
	}
}

// The linker takes a name that isn't there for one that nobody uses, and says nothing.
func TestEveryBuildCanNameWhereTheDocumentsAre(t *testing.T) {
	t.Parallel()
	const variable = "-X github.com/spendflush/spendflush/internal/docpages.Base="
	for name, value := range map[string]string{"Makefile": "$(DOCS_URL)", "Dockerfile": "${DOCS_URL}"} {
		if !strings.Contains(readText(t, name), variable+value) {
			t.Errorf("%s lacks %s%s", name, variable, value)
		}
	}
	if !strings.Contains(readText(t, "internal/docpages/docpages.go"), "\nvar Base = \"") {
		t.Error("there is no such variable")
	}
}

// Whoever pins images names each base by its digest, in an argument.
func TestEachBaseOfTheImageIsAnArgument(t *testing.T) {
	t.Parallel()
	dockerfile := readText(t, "Dockerfile")
	bases := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(dockerfile, -1)
	if len(bases) != 2 {
		t.Errorf("bases are %q", bases)
	}
	for _, base := range bases {
		name := strings.TrimSuffix(strings.TrimPrefix(base[1], "${"), "}")
		if !strings.HasPrefix(base[1], "${") || !strings.Contains(dockerfile, "\nARG "+name+"=") {
			t.Errorf("%s can't be replaced", base[1])
		}
		if !strings.Contains(readText(t, "docs/runbook.md"), "--build-arg "+name+"=") {
			t.Errorf("the runbook doesn't say how %s is pinned", name)
		}
	}
}
