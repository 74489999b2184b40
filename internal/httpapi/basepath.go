package httpapi

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// BasePathAllowed says what a base path may be.
const BasePathAllowed = "a path such as /spend, of at most 128 letters, digits and any of - . _ ~ between slashes, but no . or .. and not /healthz, /readyz or /metrics"

var basePathForm = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// CleanBasePath returns the path without a slash at its end; "" for the root. An error says what is allowed.
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

// below returns the path of the request below the base path, and whether it is there; else the whole path.
func (rs *routes) below(r *http.Request) (path string, isBelow bool) {
	return strings.CutPrefix(r.URL.EscapedPath(), rs.base)
}

// toPage leads from the base path without a slash to the page, whose addresses are relative to the one with a slash.
func (a *API) toPage(w http.ResponseWriter, _ *http.Request) *problem {
	w.Header().Set("Location", a.cfg.BasePath+"/")
	w.WriteHeader(http.StatusPermanentRedirect)
	return nil
}

var rootServer = []byte(`"servers": [{ "url": "/",`)

// assetsBelow returns the files, with a description of the API that says where it is served.
func assetsBelow(base string) map[string]asset {
	if base == "" {
		return assets
	}
	own := maps.Clone(assets)
	document := own["/openapi.json"]
	server := bytes.Replace(rootServer, []byte(`"/"`), []byte(`"`+base+`"`), 1)
	own["/openapi.json"] = newAsset(document.contentType, bytes.Replace(document.body, rootServer, server, 1))
	return own
}
