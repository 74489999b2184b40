package main

import (
	"slices"
	"strings"
	"testing"
)

func TestAVerdictRestsOnTheTestsThatWereNamed(t *testing.T) {
	for name, c := range map[string]struct {
		events  string
		verdict verdict
		failed  []string
	}{
		"one of the two fails": {
			"run A,fail A,run B,pass B,run C,pass C,fail", caught, []string{"A"},
		},
		"only another one fails": {
			"run A,pass A,run B,pass B,run C,fail C,fail", caughtElsewhere, []string{"C"},
		},
		"all pass":                  {"run A,pass A,run B,pass B,pass", survived, nil},
		"all pass, and a leak":      {"run A,pass A,run B,pass B,fail", caughtElsewhere, nil},
		"a panic ends the program":  {"run A,pass A,run B,fail", caught, []string{"B"}},
		"one waits while it hangs":  {"run A,pause A,run B,fail", caught, []string{"B"}},
		"there is no such test":     {"run A,pass A,pass", untried, nil},
		"no test is there":          {"pass", untried, nil},
		"a test is skipped":         {"run A,pass A,run B,skip B,pass", untried, nil},
		"it doesn't build":          {"build-fail,fail", broken, nil},
		"it doesn't build, at last": {"fail !", broken, nil},
	} {
		var lines strings.Builder
		for _, e := range strings.Split(c.events, ",") {
			action, test, _ := strings.Cut(e, " ")
			field := "Test"
			if test == "!" {
				field = "FailedBuild"
			}
			lines.WriteString(`{"Action":"` + action + `","` + field + `":"` + test + `"}` + "\n")
		}
		tally, err := read(strings.NewReader(lines.String()))
		if err != nil {
			t.Fatal(err)
		}
		if j := tally.classify([]string{"A", "B"}); j.verdict != c.verdict || !slices.Equal(j.failed, c.failed) {
			t.Errorf("%s: %s, failed %v; want %s, %v", name, j.verdict, j.failed, c.verdict, c.failed)
		}
	}
}

func TestThePatternNamesWholeTests(t *testing.T) {
	if got := pattern([]string{"TestB", "TestA/Sub one", "TestA/Sub two"}); got != "^(TestA|TestB)$" {
		t.Error(got)
	}
}
