// Package docpages makes web pages of the documents in docs/. Every instance serves them, so that
// what the program says of a problem can be read without any other network, and is of this very
// version.
package docpages

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
)

// Base stands before the name of a document in all URLs that the program answers or prints. What
// begins with a slash is a path of the instance itself, to which its base path is added. A build
// that has the documents somewhere else sets that (make build
// DOCS_URL=https://example.com/spendflush/): it ends with a slash, and "api" after it is
// docs/api.md.
var Base = "/docs/"

// repository is where links of the documents lead that leave docs/.
const repository = "https://github.com/spendflush/spendflush/blob/main/"

// URL returns where a section of a document is; anchor is that of the section.
func URL(document, anchor string) string { return Base + document + "#" + anchor }

//go:embed page.html
var templates embed.FS

var page = template.Must(template.ParseFS(templates, "page.html"))

// document is one page, as the template takes it.
type document struct {
	Name  string // of its file, without .md; "" for the list of all
	Title string
	Root  string // relative way from it to what the instance serves: "../", or "../../" from within a folder
	Body  template.HTML
	All   []*document // on the list
}

// Render makes the pages of all documents, by the path of each below /docs/: "" for the list of
// them, "api" for api.md, "adr/0001-storage-keys" for one in a folder. Links between documents lead
// from page to page; those out of docs/ lead to the repository. An error names the document and its
// link that leads nowhere.
func Render(files fs.FS) (map[string][]byte, error) {
	names, err := documents(files)
	if err != nil {
		return nil, err
	}
	list := &document{Title: "Documents", Root: "../"}
	pages := map[string][]byte{}
	r := &renderer{
		files: files, names: names, anchors: map[string]map[string]bool{},
		md: goldmark.New(
			goldmark.WithExtensions(extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignAttribute)), extension.Strikethrough),
			goldmark.WithParserOptions(parser.WithAutoHeadingID()),
		),
	}
	for _, name := range names {
		one, err := r.render(name)
		if err != nil {
			return nil, fmt.Errorf("docs/%s.md: %w", name, err)
		}
		list.All = append(list.All, one)
	}
	if err := r.checkLinks(); err != nil {
		return nil, err
	}
	for _, one := range append(list.All, list) {
		var out bytes.Buffer
		if err := page.Execute(&out, one); err != nil {
			return nil, fmt.Errorf("docs/%s: %w", one.Name, err)
		}
		pages[one.Name] = out.Bytes()
	}
	return pages, nil
}

// documents lists the names of the documents: those of docs/ itself, then those in folders.
func documents(files fs.FS) (names []string, err error) {
	err = fs.WalkDir(files, ".", func(file string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(file, ".md"); ok {
			names = append(names, name)
		}
		return err
	})
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), cmp.Compare(a, b))
	})
	return names, err
}

// renderer makes pages, and remembers what leads where.
type renderer struct {
	md      goldmark.Markdown
	files   fs.FS
	names   []string
	anchors map[string]map[string]bool // of each document
	links   []link
}

// link is a link from one document into another, or within it.
type link struct {
	from, written string
	to, anchor    string
}

func (r *renderer) render(name string) (*document, error) {
	source, err := fs.ReadFile(r.files, name+".md")
	if err != nil {
		return nil, err
	}
	ids := &anchors{used: map[string]bool{}}
	tree := r.md.Parser().Parse(text.NewReader(source), parser.WithContext(parser.NewContext(parser.WithIDs(ids))))
	if err := r.redirect(tree, name); err != nil {
		return nil, err
	}
	var body bytes.Buffer
	if err := r.md.Renderer().Render(&body, source, tree); err != nil {
		return nil, err
	}
	r.anchors[name] = ids.used
	return &document{
		Name: name, Title: cmp.Or(titleOf(tree, source), name), Root: strings.Repeat("../", 1+strings.Count(name, "/")),
		Body: template.HTML(body.String()), //nolint:gosec // documents of this very build, rendered without raw HTML
	}, nil
}

// checkLinks says which link between documents leads nowhere.
func (r *renderer) checkLinks() error {
	for _, l := range r.links {
		if l.anchor != "" && !r.anchors[l.to][l.anchor] {
			return fmt.Errorf("docs/%s.md: the link to %s leads nowhere; the sections of docs/%s.md are %s",
				l.from, l.written, l.to, strings.Join(slices.Sorted(maps.Keys(r.anchors[l.to])), ", "))
		}
	}
	return nil
}

// target returns what a link of the document is replaced by.
func (r *renderer) target(from, written string) (string, error) {
	if strings.Contains(written, ":") || strings.HasPrefix(written, "/") {
		return written, nil
	}
	file, anchor, hasAnchor := strings.Cut(written, "#")
	if file == "" {
		r.links = append(r.links, link{from, written, from, anchor})
		return written, nil
	}
	at := path.Join("docs", path.Dir(from), file)
	inDocs, ok := strings.CutPrefix(at, "docs/")
	if !ok {
		return repository + strings.TrimPrefix(written, strings.Repeat("../", 1+strings.Count(from, "/"))), nil
	}
	to, ok := strings.CutSuffix(inDocs, ".md")
	if !ok || !slices.Contains(r.names, to) {
		return "", fmt.Errorf("the link to %s leads to no document", written)
	}
	r.links = append(r.links, link{from, written, to, anchor})
	short := strings.TrimSuffix(file, ".md")
	if hasAnchor {
		short += "#" + anchor
	}
	return short, nil
}
