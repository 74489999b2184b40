package httpapi

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func TestThePageLoadsOnlyWhatThisInstanceServesAndHasNoInlineCode(t *testing.T) {
	a, _ := newAPI(t, nil)
	w := do(a, "GET", "/", "")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	page := w.Body.String()
	for _, blocked := range []string{"<style", " style=", "javascript:", " onclick=", " onload=", "@import"} {
		if strings.Contains(page, blocked) {
			t.Errorf("the page has %q, which its policy blocks", blocked)
		}
	}
	if n, m := strings.Count(page, "<script"), len(regexp.MustCompile(`<script[^>]* src="`).FindAllString(page, -1)); n != m {
		t.Errorf("%d scripts, %d of them from a file", n, m)
	}
	for _, match := range regexp.MustCompile(`<(?:script|link|img)[^>]* (?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(match[1], "data:") {
			continue
		}
		if w := do(a, "GET", "/"+match[1], ""); strings.HasPrefix(match[1], "/") || w.Code != http.StatusOK {
			t.Errorf("the page loads %s: %d", match[1], w.Code)
		}
	}
}

func TestFilesOfThePageAreOpenHoldNoDataAndRunUnderAStrictPolicy(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Keys = keysOf("secret-1") })
	for path := range assets {
		w := do(a, "GET", path, "")
		h := w.Header()
		if w.Code != http.StatusOK || h.Get("ETag") == "" || h.Get("Cache-Control") != "no-cache" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, w.Code, h)
		}
		for _, rule := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(h.Get("Content-Security-Policy"), rule) {
				t.Errorf("%s: the policy has no %s", path, rule)
			}
		}
		if w := do(a, "HEAD", path, ""); w.Code != http.StatusOK || w.Body.Len() > 0 || w.Header().Get("ETag") != h.Get("ETag") {
			t.Errorf("HEAD %s: %d, %d bytes", path, w.Code, w.Body.Len())
		}
		w = do(a, "GET", path, "", "If-None-Match: "+h.Get("ETag"))
		if w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s again: %d, %d bytes", path, w.Code, w.Body.Len())
		}
	}
	for _, path := range []string{"/assets/", "/assets/index.html", "/assets/../api.go", "/assets/%2e%2e/api.go", "/assets/nothing.js", "/assets"} {
		if w := do(a, "GET", path, "", "Authorization: Bearer secret-1"); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestFilesOfThePageKeepTheirTypesAndChangeTheirTagsWithTheirContent(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	first := loadAssets(fstest.MapFS{"assets/index.html": file("a"), "assets/app.js": file("b"), "assets/lib/chart.css": file("c")})
	second := loadAssets(fstest.MapFS{"assets/index.html": file("a"), "assets/app.js": file("d")})
	for path, want := range map[string]string{"/": "text/html; charset=utf-8", "/assets/app.js": "text/javascript; charset=utf-8", "/assets/lib/chart.css": "text/css; charset=utf-8"} {
		if got := first[path].contentType; got != want {
			t.Errorf("%s: type %q instead of %q", path, got, want)
		}
	}
	if first["/"].etag != second["/"].etag || first["/assets/app.js"].etag == second["/assets/app.js"].etag {
		t.Errorf("tags %v and %v", first, second)
	}
	defer func() {
		if recover() == nil {
			t.Error("a file of no known type is served")
		}
	}()
	loadAssets(fstest.MapFS{"assets/page.exe": file("")})
}
