package docpages

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/yuin/goldmark/ast"
)

// anchors names the headings of a document as GitHub does, where the same documents are read, too.
type anchors struct{ used map[string]bool }

// Generate implements parser.IDs.
func (a *anchors) Generate(heading []byte, _ ast.NodeKind) []byte {
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		default:
			return -1
		}
	}, strings.TrimSpace(string(heading)))
	name := slug
	for n := 1; a.used[name]; n++ {
		name = fmt.Sprintf("%s-%d", slug, n)
	}
	a.used[name] = true
	return []byte(name)
}

// Put implements parser.IDs.
func (a *anchors) Put(name []byte) { a.used[string(name)] = true }

// redirect has the links of a document lead from page to page.
func (r *renderer) redirect(tree ast.Node, name string) error {
	return ast.Walk(tree, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		l, ok := n.(*ast.Link)
		if !ok || !entering {
			return ast.WalkContinue, nil
		}
		to, err := r.target(name, string(l.Destination))
		if err != nil {
			return ast.WalkStop, err
		}
		l.Destination = []byte(to)
		return ast.WalkContinue, nil
	})
}

// titleOf returns the first heading of the document, as plain text.
func titleOf(tree ast.Node, source []byte) string {
	for n := tree.FirstChild(); n != nil; n = n.NextSibling() {
		if heading, ok := n.(*ast.Heading); ok {
			return plain(heading, source)
		}
	}
	return ""
}

// plain returns the text of a node without its marks.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Segment.Value(source))
		}
		return ast.WalkContinue, nil
	}) // the function never fails
	return b.String()
}
