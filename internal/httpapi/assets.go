package httpapi

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/spendflush/spendflush/docs"
	"github.com/spendflush/spendflush/internal/docpages"
)

// The page for people, whose index.html is served at /, the rest under /assets/; and the
// description of the API, at /openapi.json. They hold no data: what the page shows it asks of the
// API.
//
//go:embed assets openapi.json
var assetFiles embed.FS

const assetPrefix = "/assets/"

// contentTypes are those of the files of the page by extension. Those that the machine knows differ
// from one to the next.
var contentTypes = map[string]string{
	".html":        "text/html; charset=utf-8",
	".css":         "text/css; charset=utf-8",
	".js":          "text/javascript; charset=utf-8",
	".mjs":         "text/javascript; charset=utf-8",
	".json":        "application/json",
	".map":         "application/json",
	".svg":         "image/svg+xml",
	".png":         "image/png",
	".ico":         "image/x-icon",
	".webp":        "image/webp",
	".woff2":       "font/woff2",
	".txt":         "text/plain; charset=utf-8",
	".webmanifest": "application/manifest+json",
}

// pagePolicy lets the page use what comes from this instance and nothing else, and nobody put it
// into a frame.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// asset is one of these files.
type asset struct {
	contentType string
	etag        string
	body        []byte
}

func newAsset(contentType string, body []byte) asset {
	hash := sha256.Sum256(body)
	return asset{contentType: contentType, etag: `"` + hex.EncodeToString(hash[:16]) + `"`, body: body}
}

// assets are the files by the path that each is served at, below the base path.
var assets = loadAssets(assetFiles)

func loadAssets(from fs.FS) map[string]asset {
	found := map[string]asset{}
	err := fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		contentType, ok := contentTypes[path.Ext(name)]
		if !ok {
			panic("httpapi: no content type is known for " + name)
		}
		body, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		at := "/" + name
		if at == assetPrefix+"index.html" {
			at = "/"
		}
		found[at] = newAsset(contentType, body)
		return nil
	})
	if err != nil {
		panic("httpapi: an embedded file can't be read: " + err.Error())
	}
	return found
}

// asset serves the file that lies at the path. A browser asks each time whether it has changed, so
// that a page never runs with the scripts of another version.
func (a *API) asset(w http.ResponseWriter, r *http.Request) *problem {
	path, _ := a.routes.below(r)
	file, ok := a.assets[path]
	if !ok {
		return notFound.because("the page has no file %.200q", r.URL.Path)
	}
	file.serve(w, r)
	return nil
}

// documents are the documents of this version, by the path of each below /docs/. They are made when
// the first is asked for.
var documents = sync.OnceValue(func() map[string]asset {
	pages, err := docpages.Render(docs.Files)
	if err != nil {
		panic("httpapi: the documents can't be shown: " + err.Error())
	}
	found := make(map[string]asset, len(pages))
	for name, page := range pages {
		found[name] = newAsset(contentTypes[".html"], page)
	}
	return found
})

// document serves a document as a page, or the list of all.
func (a *API) document(w http.ResponseWriter, r *http.Request) *problem {
	name := r.PathValue("document")
	file, ok := documents()[name]
	if !ok {
		return notFound.because("there is no document %.200q; %s lists them", name, a.cfg.BasePath+"/docs/")
	}
	file.serve(w, r)
	return nil
}

func (file asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", file.contentType)
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", file.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.body))
}
