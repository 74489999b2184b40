package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/docpages"
)

func TestTheTypeOfEveryProblemLeadsToItsSectionOnThisInstance(t *testing.T) {
	for _, base := range []string{"", "/billing/spend"} {
		a := newAPIBelow(t, base)
		var document struct {
			Components struct {
				Schemas map[string]struct {
					Properties struct {
						Type struct {
							Const string `json:"const"`
						} `json:"type"`
					} `json:"properties"`
				} `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(do(a, "GET", base+"/openapi.json", "").Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for name, schema := range document.Components.Schemas {
			url := schema.Properties.Type.Const
			if !strings.Contains(url, "#") {
				continue
			}
			seen++
			path, anchor, _ := strings.Cut(url, "#")
			w := do(a, "GET", path, "")
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `id="`+anchor+`"`) {
				t.Errorf("base path %q, problem %s: %s answers %d, and has no such section", base, name, url, w.Code)
			}
		}
		if seen < 20 {
			t.Errorf("base path %q: %d types of problems", base, seen)
		}
		var p problem
		w := do(a, "GET", base+"/v1/status", "")
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Type != base+"/docs/api#unauthorized" {
			t.Errorf("base path %q: %d %s (%v)", base, w.Code, w.Body, err)
		}
	}
}

func TestDocumentsAreOpenUnderAStrictPolicyAndOthersAreNot(t *testing.T) {
	root, _ := newAPI(t, func(c *Config) { c.Keys = keysOf("secret-1") })
	for base, a := range map[string]http.Handler{"": root, "/spend": newAPIBelow(t, "/spend")} {
		for _, path := range []string{"/docs/", "/docs/runbook", "/docs/adr/0001-storage-keys"} {
			if base == "" && strings.Contains(path, "adr") {
				continue // what is served there is documented without slashes in names
			}
			path = base + path
			w := do(a, "GET", path, "")
			h := w.Header()
			if w.Code != http.StatusOK || h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Content-Security-Policy") != pagePolicy || h.Get("ETag") == "" {
				t.Errorf("%s: %d %v", path, w.Code, h)
			}
			if w := do(a, "GET", path, "", "If-None-Match: "+h.Get("ETag")); w.Code != http.StatusNotModified {
				t.Errorf("%s again: %d", path, w.Code)
			}
		}
		if w := do(a, "GET", base+"/docs", ""); w.Code != http.StatusPermanentRedirect || w.Header().Get("Location") != base+"/docs/" {
			t.Errorf("%s/docs: %d %v", base, w.Code, w.Header())
		}
		for _, name := range []string{"nothing", "runbook.md", "../api.go", "adr", "adr/"} {
			if w := do(a, "GET", base+"/docs/"+name, "", bearer); w.Code != http.StatusNotFound {
				t.Errorf("%s/docs/%s: %d", base, name, w.Code)
			}
		}
	}
	if w := do(newAPIBelow(t, "/spend"), "GET", "/docs/runbook", "", bearer); w.Code != http.StatusNotFound {
		t.Errorf("a document without the base path: %d", w.Code)
	}
}

// A build that has its documents somewhere else says so wherever an instance tells where they are.
func TestABuildMayHaveItsDocumentsSomewhereElse(t *testing.T) {
	old := docpages.Base
	t.Cleanup(func() { docpages.Base = old })
	docpages.Base = "https://example.com/d/"
	a := newAPIBelow(t, "/spend")
	for path, wants := range map[string][]string{
		"/spend/openapi.json": {`"const": "https://example.com/d/api#not-found"`},
		"/spend/":             {`<meta name="docs" content="https://example.com/d/">`},
		"/spend/v1/nothing":   {`"type":"https://example.com/d/api#not-found"`},
	} {
		body := do(a, "GET", path, "", bearer).Body.String()
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %s", path, want)
			}
		}
	}
}
