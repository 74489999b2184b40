package httpapi

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestEveryProblemIsExplainedWhereItsTypePoints(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	slugs := regexp.MustCompile(`problemType\{"([a-z-]+)"`).FindAllSubmatch(source, -1)
	if len(slugs) < 15 {
		t.Fatalf("only %d problem types were found in problem.go", len(slugs))
	}
	for _, slug := range slugs {
		if !strings.Contains(string(page), "\n### "+string(slug[1])+"\n") {
			t.Errorf("docs/api.md has no heading %q", slug[1])
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllSubmatch(page, -1) {
		if !strings.Contains(string(source), `{"`+string(heading[1])+`"`) {
			t.Errorf("docs/api.md explains %q, which doesn't exist", heading[1])
		}
	}
}
