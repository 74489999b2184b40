package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

func TestPageOfAnotherSiteCantMakeAnInstanceWork(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	in := newStack(t).start("open", "SPENDFLUSH_TOKENS=") // to whoever is on this machine
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<h1>evil</h1><a href="%s/">a link</a>`, in.url)
	}))
	t.Cleanup(evil.Close)
	served := func(code string) float64 {
		t.Helper()
		return in.metrics().sum("spendflush_http_responses_total", "code", code)
	}
	local := strings.Replace(in.url, "127.0.0.1", "y0.localhost", 1) // a name more, for six more connections
	for _, page := range []string{evil.URL, strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)} {
		b.do("open", chromedp.Navigate(page))
		b.shows("h1", "evil")
		before := served("403")
		asked := 0
		for _, at := range []string{in.url, local} {
			for _, path := range []string{"/v1/audit", "/v1/usage", "/metrics", "/openapi.json", "/v1/events"} {
				js[string](b, fmt.Sprintf(`fetch(%q, {mode: "no-cors"}).then(() => "answered", () => "refused")`, at+path))
				asked++
			}
		}
		if n := served("403") - before; n != float64(asked) {
			t.Errorf("%s: %v of %d requests were refused", page, n, asked)
		}
		b.click("a")
		eventually(t, "the page is shown, to which links may lead", func() string {
			live, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`document.querySelector("#live")?.innerText.includes("Live") ?? false`))
			if err != nil || !live { // there is nothing to ask while the browser goes there
				return fmt.Sprint("not yet: ", err)
			}
			return ""
		})
	}
	b.quiet("403", "ERR_BLOCKED_BY_RESPONSE", "CORS", "Cross-Origin", "net::ERR")
}
