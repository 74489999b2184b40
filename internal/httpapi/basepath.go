package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/spendflush/spendflush/internal/docpages"
)

// BasePathAllowed says what a base path may be.
const BasePathAllowed = "a path such as /spend, of at most 128 letters, digits and any of - . _ ~ between slashes, but no . or .. and not /healthz, /readyz or /metrics"

var basePathForm = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// CleanBasePath returns the path without a slash at its end; "" for the root. An error says what is
// allowed.
func CleanBasePath(text string) (string, error) {
	path := strings.TrimSuffix(text, "/")
	if path == "" && len(text) <= 1 {
		return "", nil
	}
	segments := strings.Split(path, "/")
	if !basePathForm.MatchString(path) || len(path) > 128 || slices.Contains(segments, ".") || slices.Contains(segments, "..") ||
		slices.Contains([]string{"healthz", "readyz", "metrics"}, segments[1]) {
		return "", errors.New("allowed is " + BasePathAllowed)
	}
	return path, nil
}

// below returns the path of the request below the base path, and whether it is there; else the
// whole path.
func (rs *routes) below(r *http.Request) (path string, isBelow bool) {
	return strings.CutPrefix(r.URL.EscapedPath(), rs.base)
}

// toSlash leads to the same path with a slash at its end, which the addresses on the page there are
// relative to.
func (a *API) toSlash(w http.ResponseWriter, r *http.Request) *problem {
	path, _ := a.routes.below(r)
	w.Header().Set("Location", a.cfg.BasePath+path+"/")
	w.WriteHeader(http.StatusPermanentRedirect)
	return nil
}

// What the files say of the places of this instance when it is served at the root, and its
// documents by itself.
var (
	rootServer  = []byte(`"servers": [{ "url": "/",`)
	rootProblem = []byte(`"const": "/docs/api#`)
	rootDocs    = []byte(`<meta name="docs" content="docs/">`)
)

// placed returns the files, with a description of the API that says where it is served, and a page
// that knows where the documents are.
func (a *API) placed() map[string]asset {
	own := maps.Clone(assets)
	put := func(path string, what []byte, format, value string) {
		old := own[path]
		own[path] = newAsset(old.contentType, bytes.ReplaceAll(old.body, what, fmt.Appendf(nil, format, value)))
	}
	if base := a.cfg.BasePath; base != "" {
		put("/openapi.json", rootServer, `"servers": [{ "url": %q,`, base)
	}
	if api := a.docsURL(docpages.URL("api", "")); api != "/docs/api#" {
		put("/openapi.json", rootProblem, `"const": "%s`, api)
	}
	if !strings.HasPrefix(docpages.Base, "/") {
		put("/", rootDocs, `<meta name="docs" content="%s">`, html.EscapeString(docpages.Base))
	}
	return own
}

// docsURL returns the URL of a document as clients of this instance see it.
func (a *API) docsURL(of string) string {
	if strings.HasPrefix(of, "/") {
		return a.cfg.BasePath + of
	}
	return of
}
