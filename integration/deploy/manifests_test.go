package deploy

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// kinds are the types of all that may be in a manifest.
var kinds = map[string]func() metav1.Object{
	"apps/v1/Deployment":                      func() metav1.Object { return &appsv1.Deployment{} },
	"apps/v1/StatefulSet":                     func() metav1.Object { return &appsv1.StatefulSet{} },
	"batch/v1/Job":                            func() metav1.Object { return &batchv1.Job{} },
	"v1/Pod":                                  func() metav1.Object { return &corev1.Pod{} },
	"v1/Service":                              func() metav1.Object { return &corev1.Service{} },
	"v1/ServiceAccount":                       func() metav1.Object { return &corev1.ServiceAccount{} },
	"v1/ConfigMap":                            func() metav1.Object { return &corev1.ConfigMap{} },
	"policy/v1/PodDisruptionBudget":           func() metav1.Object { return &policyv1.PodDisruptionBudget{} },
	"networking.k8s.io/v1/NetworkPolicy":      func() metav1.Object { return &networkingv1.NetworkPolicy{} },
	"monitoring.coreos.com/v1/ServiceMonitor": func() metav1.Object { return &monitoringv1.ServiceMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule": func() metav1.Object { return &monitoringv1.PrometheusRule{} },
}

// decode decodes manifests by the types of the API: an unknown or a repeated field is a fault.
func decode(t testing.TB, manifests string) (objects []metav1.Object) {
	t.Helper()
	for document := range strings.SplitSeq("\n"+manifests, "\n---") {
		encoded, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if string(encoded) == "null" {
			continue
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(encoded, &kind); err != nil {
			t.Fatal(err)
		}
		make := kinds[kind.APIVersion+"/"+kind.Kind]
		if make == nil {
			t.Fatalf("%s/%s isn't among the kinds that are known here", kind.APIVersion, kind.Kind)
		}
		object := make()
		faults, err := kjson.UnmarshalStrict(encoded, object)
		if err != nil || len(faults) > 0 {
			t.Fatalf("%s: %v %v\n%s", kind.Kind, err, faults, document)
		}
		objects = append(objects, object)
	}
	return objects
}

// of returns the objects of a type.
func of[T metav1.Object](objects []metav1.Object) (found []T) {
	for _, object := range objects {
		if one, ok := object.(T); ok {
			found = append(found, one)
		}
	}
	return found
}

// render renders the chart, which must succeed.
func render(t testing.TB, values string, args ...string) []metav1.Object {
	t.Helper()
	rendered, said, err := template(t, values, args...)
	if err != nil {
		t.Fatalf("%v %s\n%s", err, said, values)
	}
	return decode(t, rendered)
}

// pods returns the templates of all pods, by the name of what makes them.
func pods(objects []metav1.Object) map[string]*corev1.PodTemplateSpec {
	found := map[string]*corev1.PodTemplateSpec{}
	for _, object := range objects {
		switch o := object.(type) {
		case *appsv1.Deployment:
			found[o.Name] = &o.Spec.Template
		case *appsv1.StatefulSet:
			found[o.Name] = &o.Spec.Template
		case *batchv1.Job:
			found[o.Name] = &o.Spec.Template
		case *corev1.Pod:
			found[o.Name] = &corev1.PodTemplateSpec{ObjectMeta: o.ObjectMeta, Spec: o.Spec}
		}
	}
	return found
}

// workload is what runs the instances.
type workload struct {
	metav1.Object
	selector *metav1.LabelSelector
	template *corev1.PodTemplateSpec
	replicas *int32
}

func instances(t testing.TB, objects []metav1.Object) workload {
	t.Helper()
	var found []workload
	for _, d := range of[*appsv1.Deployment](objects) {
		found = append(found, workload{d, d.Spec.Selector, &d.Spec.Template, d.Spec.Replicas})
	}
	for _, s := range of[*appsv1.StatefulSet](objects) {
		found = append(found, workload{s, s.Spec.Selector, &s.Spec.Template, s.Spec.Replicas})
	}
	if len(found) != 1 {
		t.Fatalf("%d workloads run instances", len(found))
	}
	return found[0]
}

// container returns the only one of a pod.
func container(t testing.TB, pod *corev1.PodTemplateSpec) *corev1.Container {
	t.Helper()
	if len(pod.Spec.Containers) != 1 || len(pod.Spec.InitContainers) != 0 {
		t.Fatalf("containers are %v and %v", pod.Spec.Containers, pod.Spec.InitContainers)
	}
	return &pod.Spec.Containers[0]
}

// variables returns the variables of a container, none of which may come twice.
func variables(t testing.TB, c *corev1.Container) map[string]corev1.EnvVar {
	t.Helper()
	found := map[string]corev1.EnvVar{}
	for _, variable := range c.Env {
		if _, twice := found[variable.Name]; twice {
			t.Errorf("%s comes twice", variable.Name)
		}
		found[variable.Name] = variable
	}
	return found
}

func selects(t testing.TB, selector *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || s.Empty() {
		t.Fatalf("the selector is %v, %v", s, err)
	}
	return s.Matches(labels.Set(of))
}

// restricted says what the Pod Security Standard of that name has against a pod, by the code that
// admits pods.
func restricted(t testing.TB, pod *corev1.PodTemplateSpec) string {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec))
	if result.Allowed {
		return ""
	}
	return result.ForbiddenDetail()
}

func TestEachManifestOfTheChartIsWhole(t *testing.T) {
	t.Parallel()
	for name, values := range matrix {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, values)
			seen := map[string]bool{}
			for _, object := range objects {
				id := fmt.Sprintf("%T %s", object, object.GetName())
				if seen[id] {
					t.Errorf("%s comes twice", id)
				}
				seen[id] = true
				if faults := validation.IsDNS1035Label(object.GetName()); len(faults) > 0 || object.GetNamespace() != "money" {
					t.Errorf("%s: %v, in namespace %q", id, faults, object.GetNamespace())
				}
				for key, value := range object.GetLabels() {
					if faults := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(faults) > 0 {
						t.Errorf("%s: label %s=%s: %v", id, key, value, faults)
					}
				}
			}
			for name, pod := range pods(objects) {
				checkPod(t, name, pod)
			}
			checkInstances(t, objects)
		})
	}
}

// checkPod looks at what must be true of all pods.
func checkPod(t *testing.T, name string, pod *corev1.PodTemplateSpec) {
	t.Helper()
	if fault := restricted(t, pod); fault != "" {
		t.Errorf("%s isn't admitted where pods are restricted: %s", name, fault)
	}
	if on := pod.Spec.EnableServiceLinks; on == nil || *on {
		t.Errorf("%s: Kubernetes makes variables such as SPENDFLUSH_PORT for Services", name)
	}
	if on := pod.Spec.AutomountServiceAccountToken; on == nil || *on {
		t.Errorf("%s has a token of the cluster", name)
	}
	c := container(t, pod)
	if ro := c.SecurityContext.ReadOnlyRootFilesystem; ro == nil || !*ro {
		t.Errorf("%s may write to its image", name)
	}
	for _, mount := range c.VolumeMounts {
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name }) && mount.Name != "journal" {
			t.Errorf("%s: there is no volume %s", name, mount.Name)
		}
	}
	variables(t, c)
}

// checkInstances looks at what must fit together.
func checkInstances(t *testing.T, objects []metav1.Object) {
	t.Helper()
	w := instances(t, objects)
	pod := w.template.Labels
	if !selects(t, w.selector, pod) {
		t.Errorf("%v doesn't select its own pods, %v", w.selector, pod)
	}
	for other, template := range pods(objects) {
		if other != w.GetName() && selects(t, w.selector, template.Labels) {
			t.Errorf("the pod %s is taken for an instance", other)
		}
	}
	c := container(t, w.template)
	ports := map[string]int32{}
	for _, port := range c.Ports {
		ports[port.Name] = port.ContainerPort
	}
	if _, port, err := net.SplitHostPort(variables(t, c)["SPENDFLUSH_LISTEN"].Value); err != nil || port != fmt.Sprint(ports["http"]) {
		t.Errorf("the program listens on port %q, the container has %v: %v", port, ports, err)
	}
	for _, service := range of[*corev1.Service](objects) {
		if !selects(t, metav1.SetAsLabelSelector(service.Spec.Selector), pod) {
			t.Errorf("Service %s selects no instance", service.Name)
		}
		for _, port := range service.Spec.Ports {
			if ports[port.TargetPort.StrVal] == 0 {
				t.Errorf("Service %s leads to port %q; there are %v", service.Name, port.TargetPort.StrVal, ports)
			}
		}
	}
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || ports[probe.HTTPGet.Port.StrVal] == 0 {
			t.Errorf("the probe asks nobody: %v", probe)
		}
	}
	for _, budget := range of[*policyv1.PodDisruptionBudget](objects) {
		if !selects(t, budget.Spec.Selector, pod) {
			t.Error("the budget is for other pods")
		}
	}
	for _, rule := range of[*networkingv1.NetworkPolicy](objects) {
		if !selects(t, &rule.Spec.PodSelector, pod) {
			t.Error("the network policy is for other pods")
		}
		for _, port := range rule.Spec.Ingress[0].Ports {
			if ports[port.Port.StrVal] == 0 {
				t.Errorf("the network policy opens port %v", port.Port)
			}
		}
		if open := !slices.Contains(rule.Spec.PolicyTypes, networkingv1.PolicyTypeEgress); open != (len(rule.Spec.Egress) == 0) {
			t.Error("egress is closed without a rule, or open with one")
		}
	}
	for _, monitor := range of[*monitoringv1.ServiceMonitor](objects) {
		var asked []string
		for _, service := range of[*corev1.Service](objects) {
			if selects(t, &monitor.Spec.Selector, service.Labels) {
				asked = append(asked, service.Name)
				if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == monitor.Spec.Endpoints[0].Port }) {
					t.Errorf("%s has no port %s", service.Name, monitor.Spec.Endpoints[0].Port)
				}
			}
		}
		want := w.GetName()
		if _, listens := variables(t, c)["SPENDFLUSH_METRICS_LISTEN"]; listens {
			want += "-metrics"
		}
		if !slices.Equal(asked, []string{want}) {
			t.Errorf("each instance must be asked once for its metrics; it is through %q", asked)
		}
	}
}

func TestTheRulesOfTheChartAreTheAlerts(t *testing.T) {
	t.Parallel()
	rules := of[*monitoringv1.PrometheusRule](render(t, everything))
	if len(rules) != 1 {
		t.Fatalf("there are %d PrometheusRules", len(rules))
	}
	source, rendered := map[string]any{}, map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(readText(t, "deploy/prometheus/alerts.yml")), &source); err != nil {
		t.Fatal(err)
	}
	encoded, err := yaml.Marshal(rules[0].Spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(encoded, &rendered); err != nil {
		t.Fatal(err)
	}
	want, _ := yaml.Marshal(source)
	got, _ := yaml.Marshal(rendered)
	if string(got) != string(want) || strings.Count(string(got), "alert: ") < 20 {
		t.Errorf("the rules differ from deploy/prometheus/alerts.yml:\n%s", got)
	}
	own := of[*monitoringv1.PrometheusRule](render(t, everything+"  docsURL: https://spend.example.com/docs/\n"))
	moved, _ := yaml.Marshal(own[0].Spec)
	if n := strings.Count(string(moved), "https://spend.example.com/docs/runbook#"); n < 20 || strings.Contains(string(moved), "github.com") {
		t.Errorf("with documents of its own, %d alerts lead there:\n%s", n, moved)
	}
	boards := of[*corev1.ConfigMap](render(t, everything))
	if len(boards) != 1 || strings.TrimSpace(boards[0].Data["spendflush.json"]) != strings.TrimSpace(readText(t, "deploy/grafana/spendflush.json")) {
		t.Error("the dashboard differs from deploy/grafana/spendflush.json")
	}
}

func TestAStopHasTheTimeThatItsSettingsTake(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]int64{
		"{}":                            45,
		"{SPENDFLUSH_DRAIN_DELAY: 20s}": 60,
		"{SPENDFLUSH_DRAIN_DELAY: 0s, SPENDFLUSH_SHUTDOWN_TIMEOUT: 1h}":          3610,
		"{SPENDFLUSH_DRAIN_DELAY: 1m30s, SPENDFLUSH_SHUTDOWN_TIMEOUT: 1m0.5s}":   161,
		"{SPENDFLUSH_DRAIN_DELAY: 2500ms, SPENDFLUSH_SHUTDOWN_TIMEOUT: 1500ms}":  15,
		"{SPENDFLUSH_DRAIN_DELAY: 0, SPENDFLUSH_SHUTDOWN_TIMEOUT: 1000000000ns}": 11,
	} {
		w := instances(t, render(t, required+"settings: "+settings+"\n"))
		if got := w.template.Spec.TerminationGracePeriodSeconds; got == nil || *got != want {
			t.Errorf("%s: %v seconds, want %d", settings, *got, want)
		}
	}
	w := instances(t, render(t, matrix["time for a stop"]))
	if got := *w.template.Spec.TerminationGracePeriodSeconds; got != 3600 {
		t.Errorf("the number that was set became %d", got)
	}
}

func TestAJournalHasAVolumeOfItsOwnThatStays(t *testing.T) {
	t.Parallel()
	sets := of[*appsv1.StatefulSet](render(t, everything))
	if len(sets) != 1 {
		t.Fatal("there is no StatefulSet")
	}
	set := sets[0]
	c := container(t, &set.Spec.Template)
	claims := set.Spec.VolumeClaimTemplates
	if len(claims) != 1 || claims[0].Spec.Resources.Requests.Storage().String() != "5Gi" || *claims[0].Spec.StorageClassName != "fast" {
		t.Errorf("claims are %v", claims)
	}
	i := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == claims[0].Name })
	if dir := variables(t, c)["SPENDFLUSH_JOURNAL_DIR"].Value; i < 0 || !strings.HasPrefix(dir, c.VolumeMounts[i].MountPath+"/") {
		t.Errorf("the journal at %q isn't on the volume", dir)
	}
	if r := set.Spec.PersistentVolumeClaimRetentionPolicy; r.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType || r.WhenScaled != r.WhenDeleted {
		t.Errorf("claims go with the instances: %v", r)
	}
	headless := 0
	for _, service := range of[*corev1.Service](render(t, everything)) {
		if service.Name == set.Spec.ServiceName && service.Spec.ClusterIP == corev1.ClusterIPNone {
			headless++
		}
	}
	if headless != 1 {
		t.Errorf("the StatefulSet's Service %s isn't there", set.Spec.ServiceName)
	}
	if _, on := variables(t, container(t, instances(t, render(t, required)).template))["SPENDFLUSH_JOURNAL_DIR"]; on {
		t.Error("a Deployment has a journal")
	}
}

func TestMigrationsByHookComeBeforeTheInstancesAsTheOwner(t *testing.T) {
	t.Parallel()
	if jobs := of[*batchv1.Job](render(t, required)); len(jobs) != 0 {
		t.Errorf("there are Jobs although instances migrate: %v", jobs)
	}
	for name, owner := range map[string]string{everything: "owner", matrix["migrations by hook"]: "spendflush"} {
		jobs := of[*batchv1.Job](render(t, name))
		if len(jobs) != 1 {
			t.Fatalf("there are %d Jobs", len(jobs))
		}
		if hook := jobs[0].Annotations["helm.sh/hook"]; hook != "pre-install,pre-upgrade" {
			t.Errorf("the hook is %q", hook)
		}
		c := container(t, &jobs[0].Spec.Template)
		set := variables(t, c)
		if from := set["DATABASE_URL"].ValueFrom; from == nil || from.SecretKeyRef.Name != owner || !slices.Equal(c.Args, []string{"migrate", "up"}) {
			t.Errorf("%v runs with %v", c.Args, set["DATABASE_URL"])
		}
		// The image listens everywhere by default, which nothing without a token may.
		if set["SPENDFLUSH_LISTEN"].Value != "127.0.0.1:4180" || set["SPENDFLUSH_TOKENS"].ValueFrom != nil || set["REDIS_URL"].ValueFrom != nil {
			t.Errorf("the Job has %v", slices.Sorted(maps.Keys(set)))
		}
	}
}

func TestTheMetricsPortFollowsItsSettingAndIsNotThatOfClients(t *testing.T) {
	t.Parallel()
	const monitored = required + "serviceMonitor: {enabled: true}\nnetworkPolicy: {enabled: true}\nservice: {type: LoadBalancer}\n"
	for _, c := range []struct {
		values  string
		port    int32  // of the container; 0: it has none
		scraped string // the port that Prometheus asks
	}{
		{monitored, 0, "http"},
		{monitored + "settings: {SPENDFLUSH_METRICS_LISTEN: \":9470\"}\n", 9470, "metrics"},
		{monitored + "settings: {SPENDFLUSH_METRICS_LISTEN: \"0.0.0.0:9470\"}\njournal: {enabled: true}\ntls: {secretName: t}\n", 9470, "metrics"},
		{monitored + "settings: {SPENDFLUSH_METRICS_LISTEN: \"127.0.0.1:9470\"}\n", 0, "http"},
		{monitored + "settings: {SPENDFLUSH_METRICS_LISTEN: \"[::1]:9470\"}\n", 0, "http"},
		{strings.Replace(monitored, "Monitor: {", "Monitor: {port: http, ", 1) + "settings: {SPENDFLUSH_METRICS_LISTEN: \":9470\"}\n", 9470, "http"},
		{strings.Replace(monitored, "Monitor: {", "Monitor: {port: metrics, ", 1) + "settings: {SPENDFLUSH_METRICS_LISTEN: \":9470\"}\n", 9470, "metrics"},
	} {
		objects := render(t, c.values)
		var port int32
		for _, p := range container(t, instances(t, objects).template).Ports {
			if p.Name == "metrics" {
				port = p.ContainerPort
			}
		}
		if port != c.port {
			t.Errorf("%s\nthe container has the port %d, want %d", c.values, port, c.port)
		}
		for _, service := range of[*corev1.Service](objects) {
			if len(service.Spec.Ports) != 1 {
				t.Errorf("%s\nService %s has the ports %v", c.values, service.Name, service.Spec.Ports)
			}
		}
		endpoint := of[*monitoringv1.ServiceMonitor](objects)[0].Spec.Endpoints[0]
		renamed := len(endpoint.RelabelConfigs) == 1 && *endpoint.RelabelConfigs[0].Replacement == "books-spendflush"
		if endpoint.Port != c.scraped || endpoint.Scheme.String() != "http" || renamed != (c.scraped == "metrics") {
			t.Errorf("%s\nPrometheus asks %v", c.values, endpoint)
		}
		opened := len(of[*networkingv1.NetworkPolicy](objects)[0].Spec.Ingress[0].Ports)
		if want := map[bool]int{false: 1, true: 2}[c.port != 0]; opened != want {
			t.Errorf("%s\nthe network policy opens %d ports", c.values, opened)
		}
	}
}

func TestInstancesThatServeTLSHaveTheirCertificateAndAreAskedOverIt(t *testing.T) {
	t.Parallel()
	const withSecret = required + "tls: {secretName: spend-tls}\nserviceMonitor: {enabled: true}\n"
	for _, c := range []struct {
		values       string
		probes       corev1.URIScheme
		scrapes      string
		secret, file string
	}{
		{required + "serviceMonitor: {enabled: true}\n", "HTTP", "http", "", ""},
		{withSecret, "HTTPS", "https", "spend-tls", "/etc/spendflush/tls/tls.crt"},
		{withSecret + "journal: {enabled: true}\nextraVolumes: [{name: ca, secret: {secretName: ca}}]\n", "HTTPS", "https", "spend-tls", "/etc/spendflush/tls/tls.crt"},
		{withSecret + "probes: {scheme: HTTP, port: metrics}\n", "HTTP", "https", "spend-tls", "/etc/spendflush/tls/tls.crt"},
		{required + "serviceMonitor: {enabled: true, port: metrics}\ntls: {secretName: spend-tls}\n", "HTTPS", "http", "spend-tls", "/etc/spendflush/tls/tls.crt"},
		{required + "serviceMonitor: {enabled: true}\nsettings: {SPENDFLUSH_TLS_CERT_FILE: /own/cert, SPENDFLUSH_TLS_KEY_FILE: /own/key}\n", "HTTPS", "https", "", "/own/cert"},
	} {
		objects := render(t, c.values)
		pod := instances(t, objects).template
		is := container(t, pod)
		if live, ready := is.LivenessProbe.HTTPGet.Scheme, is.ReadinessProbe.HTTPGet.Scheme; live != c.probes || ready != c.probes {
			t.Errorf("%s\nis probed over %s and %s", c.values, live, ready)
		}
		if scheme := of[*monitoringv1.ServiceMonitor](objects)[0].Spec.Endpoints[0].Scheme; scheme == nil || scheme.String() != c.scrapes {
			t.Errorf("%s\nis scraped over %v", c.values, scheme)
		}
		if got := variables(t, is)["SPENDFLUSH_TLS_CERT_FILE"].Value; got != c.file {
			t.Errorf("%s\nthe certificate is in %q", c.values, got)
		}
		mounted, secret := "", ""
		for _, m := range is.VolumeMounts {
			if m.Name == "tls" && m.SubPath == "" {
				mounted = m.MountPath
			}
		}
		for _, v := range pod.Spec.Volumes {
			if v.Name == "tls" && v.Secret != nil {
				secret = v.Secret.SecretName
			}
		}
		if secret != c.secret || secret != "" && mounted != path.Dir(c.file) {
			t.Errorf("%s\nthe Secret %q is mounted at %q", c.values, secret, mounted)
		}
	}
}
