package docpages

import (
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/spendflush/spendflush/docs"
)

func TestEveryDocumentIsAPageAndItsLinksLeadSomewhere(t *testing.T) {
	pages, err := Render(docs.Files)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "api", "runbook", "security", "adr/0001-storage-keys"} {
		if !strings.Contains(string(pages[name]), "<h1") {
			t.Errorf("no page for %q, or one without a heading", name)
		}
	}
	links := 0
	for name, page := range pages {
		for _, match := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(string(page), -1) {
			links++
			if strings.HasSuffix(match[1], ".md") && !strings.HasPrefix(match[1], repository) {
				t.Errorf("%s: the link %s leads to a file instead of a page", name, match[1])
			}
		}
		for _, inline := range []string{" style=\"", "<style", "<script>"} {
			if strings.Contains(string(page), inline) {
				t.Errorf("%s has %s", name, inline)
			}
		}
	}
	if len(pages) < 30 || links < 300 {
		t.Errorf("%d pages with %d links", len(pages), links)
	}
}

func TestLinksLeadFromPageToPageAndOutOfTheDocumentsToTheRepository(t *testing.T) {
	pages, err := Render(fstest.MapFS{
		"one.md":        {Data: []byte("# One & `all`\n\n[a](two.md#a-b-c_d) [b](../deploy/x.yml) [c](adr/0001-x.md) [d](#one--all) [e](https://example.com/) <script>alert(1)</script>\n")},
		"two.md":        {Data: []byte("## A: b, (c_d)!\n\n## Same\n\n## Same\n\n[x](#same-1)\n")},
		"adr/0001-x.md": {Data: []byte("# X\n\n[a](../one.md) [b](../../deploy/x.yml) [c](0001-x.md#x)\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	wants := map[string][]string{
		"one": {
			`href="two#a-b-c_d"`, `href="` + repository + `deploy/x.yml"`, `href="adr/0001-x"`, `id="one--all"`, `href="https://example.com/"`,
			`<title>One &amp; all – spendflush</title>`, `href="../assets/page.css"`,
		},
		"two":        {`id="a-b-c_d"`, `id="same"`, `id="same-1"`},
		"adr/0001-x": {`href="../one"`, `href="` + repository + `deploy/x.yml"`, `href="0001-x#x"`, `href="../../assets/page.css"`},
		"":           {`<a href="one">One &amp; all</a>`, `<a href="adr/0001-x">X</a>`, `href="../assets/page.css"`},
	}
	for name, parts := range wants {
		for _, part := range parts {
			if !strings.Contains(string(pages[name]), part) {
				t.Errorf("%q has no %s:\n%s", name, part, pages[name])
			}
		}
	}
	if strings.Contains(string(pages["one"]), "alert(1)</script>") {
		t.Errorf("HTML of a document reaches the page:\n%s", pages["one"])
	}
}

func TestALinkThatLeadsNowhereIsNamed(t *testing.T) {
	for link, want := range map[string]string{
		"three.md":     "docs/one.md: the link to three.md leads to no document",
		"two.md#there": "docs/one.md: the link to two.md#there leads nowhere; the sections of docs/two.md are here",
		"#nothing":     "docs/one.md: the link to #nothing leads nowhere; the sections of docs/one.md are one",
		"picture.png":  "docs/one.md: the link to picture.png leads to no document",
	} {
		_, err := Render(fstest.MapFS{"one.md": {Data: []byte("# One\n\n[x](" + link + ")\n")}, "two.md": {Data: []byte("# Here\n")}})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", link, err, want)
		}
	}
}
