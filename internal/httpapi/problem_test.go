package httpapi

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/docpages"
)

func TestTheTypesOfProblemsAreTheSameInTheCodeTheDocumentAndOnThePageTheyPointAt(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var coded, described, explained []string
	for _, m := range regexp.MustCompile(`problemType\{"([a-z-]+)"`).FindAllSubmatch(source, -1) {
		coded = append(coded, string(m[1]))
	}
	for name, problem := range theDocument().root.of("components", "schemas").members() {
		slug, ok := strings.CutPrefix(name, "problem.")
		if !ok {
			continue
		}
		described = append(described, slug)
		constant := func(name string) any { return problem.of("properties", name, "const").value }
		if constant("type") != docpages.URL("api", slug) {
			t.Errorf("%s has the type %v", name, constant("type"))
		}
		// The page says the same as the document: when it is answered, and what to do.
		want := fmt.Sprintf("**%v %v.** %s", constant("status"), constant("title"), problem.text("description"))
		_, section, _ := strings.Cut(string(page), "\n### "+slug+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		if got := strings.Join(strings.Fields(section), " "); got != want {
			t.Errorf("docs/api.md has in the section %s\n%s\ninstead of\n%s", slug, got, want)
		}
	}
	_, problems, _ := strings.Cut(string(page), "\n## Problems\n")
	for _, m := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(problems, -1) {
		explained = append(explained, m[1])
	}
	slices.Sort(coded)
	slices.Sort(described)
	slices.Sort(explained)
	if len(coded) < 20 || !slices.Equal(coded, described) || !slices.Equal(coded, explained) {
		t.Errorf("the code has\n%q, openapi.json\n%q, docs/api.md\n%q", coded, described, explained)
	}
}
