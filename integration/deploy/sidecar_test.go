package deploy

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestTheSidecarOfLiteLLMIsWhole(t *testing.T) {
	t.Parallel()
	pod := instances(t, decode(t, readText(t, "deploy/kubernetes/litellm-sidecar.yaml"))).template
	if fault := restricted(t, pod); fault != "" {
		t.Errorf("it isn't admitted where pods are restricted: %s", fault)
	}
	if on := pod.Spec.EnableServiceLinks; on == nil || *on {
		t.Error("Kubernetes makes variables such as SPENDFLUSH_PORT for Services")
	}
	sidecar := &pod.Spec.InitContainers[0]
	if policy := sidecar.RestartPolicy; len(pod.Spec.InitContainers) != 1 || policy == nil || *policy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("LiteLLM would wait for the end of %v", pod.Spec.InitContainers)
	}
	names := settingNames(t)
	set := variables(t, sidecar)
	for name := range set {
		if !slices.Contains(names, name) {
			t.Errorf("%s is no setting of spendflush", name)
		}
	}
	delay, err := time.ParseDuration(set["SPENDFLUSH_DRAIN_DELAY"].Value)
	if err != nil {
		t.Fatal(err)
	}
	// LiteLLM must have as long again as spendflush, whose timeout is the default.
	if got := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second; got < 2*(delay+30*time.Second) {
		t.Errorf("a stop has %v", got)
	}
	for _, probe := range []*corev1.Probe{sidecar.StartupProbe, sidecar.LivenessProbe} {
		if probe.HTTPGet.Port.StrVal != sidecar.Ports[0].Name || set["SPENDFLUSH_LISTEN"].Value != ":4180" || sidecar.Ports[0].ContainerPort != 4180 {
			t.Errorf("the probe %v asks nobody", probe.HTTPGet)
		}
	}
}
