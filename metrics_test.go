package spendflush

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// told returns the names of the metrics that a registry gathers, each with the labels of its first.
func told(t *testing.T, registry *prometheus.Registry) map[string]map[string]string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]map[string]string{}
	for _, family := range families {
		labels := map[string]string{}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				labels[label.GetName()] += label.GetValue() + " "
			}
		}
		names[family.GetName()] = labels
	}
	return names
}

func telling(registerer prometheus.Registerer) Config {
	return Config{
		Store: newTestStore(), DirectLocker: newTestLocker(), Queue: newTestQueue(), Locker: newTestLocker(),
		Registerer: registerer, LiteLLMMetrics: true,
	}
}

func TestSeveralPipelinesTellTheirMetricsInOneRegistryByALabelOrAPrefix(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"chat", "images"} {
		newTestPipeline(t, telling(prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": name}, registry)))
	}
	newTestPipeline(t, telling(prometheus.WrapRegistererWithPrefix("gateway_", registry)))
	names := told(t, registry)
	for _, name := range []string{"spendflush_updates_accepted_total", "spendflush_flush_rows", "litellm_pod_lock_manager_size"} {
		if got := names[name]["pipeline"]; got != "chat images " {
			t.Errorf("%s is told of the pipelines %q", name, got)
		}
		if _, ok := names["gateway_"+name]; !ok {
			t.Errorf("gateway_%s isn't told", name)
		}
	}
}

func TestASecondPipelineOnOneRegistererIsToldWhatToDo(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	first := newTestPipeline(t, telling(registry))
	_, err := New(telling(registry))
	if err == nil || !strings.Contains(err.Error(), "prometheus.WrapRegistererWith(") {
		t.Errorf("New returned %v", err)
	}
	labelled := prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": "b"}, registry)
	if _, err := New(telling(labelled)); err == nil || !strings.Contains(err.Error(), "prometheus.WrapRegistererWith(") {
		t.Errorf("with another set of labels New returned %v", err)
	}

	// One that has ended makes room.
	if err := first.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newTestPipeline(t, telling(registry))
	u := key("a")
	if err := second.Record(&u); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if n := family.GetMetric()[0].GetCounter().GetValue(); family.GetName() == "spendflush_updates_accepted_total" && n != 1 {
			t.Errorf("%g updates are told, want the second pipeline's", n)
		}
	}
}

func TestTheMetricsByLiteLLMsNamesAreToldOnlyWhereTheyAreAskedFor(t *testing.T) {
	for _, asked := range []bool{true, false} {
		registry := prometheus.NewPedanticRegistry()
		c := telling(registry)
		c.LiteLLMMetrics = asked
		newTestPipeline(t, c)
		n := 0
		for name := range told(t, registry) {
			if strings.HasPrefix(name, "litellm_") {
				n++
			}
		}
		if want := map[bool]int{true: 5}[asked]; n != want {
			t.Errorf("asked %t: %d metrics of LiteLLM's names are told, want %d", asked, n, want)
		}
	}
}
