//go:build pictures

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// The pictures of the README: "make screenshots" runs this.
func TestPicturesOfThePage(t *testing.T) {
	b := newBrowser(t)
	s := newStack(t)
	all := s.startAll(3)
	s.seed(all[0])
	dir := os.Getenv("SPENDFLUSH_PICTURES")
	if dir == "" {
		dir = t.TempDir()
	}
	b.theme("light")
	b.resize(1200, 760)
	b.do("open", chromedp.Navigate(all[0].url+"/"))
	b.write("#token", token+kb.Enter)
	b.shows("#live", "Live")
	b.shows("table", "pod-2")
	for _, p := range []struct {
		name, view, theme string
		width, height     int64
	}{
		{"pipeline", "#/", "light", 1200, 760},
		{"spend", "#/spend?range=7d&by=day&group=model", "dark", 1200, 760},
		{"trouble", "#/trouble", "light", 1200, 620},
		{"phone", "#/", "dark", 360, 720},
	} {
		b.theme(p.theme)
		b.resize(p.width, p.height)
		b.visit(p.view)
		b.until(`new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`)
		b.picture(dir, p.name)
	}
}

// picture writes a screenshot of the view.
func (b *browser) picture(dir, name string) {
	b.t.Helper()
	png := perform(b, "screenshot", chromedp.CaptureScreenshot())
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
