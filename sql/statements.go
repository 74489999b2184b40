package sql

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed *.sql
var files embed.FS

// statements are the texts of the .sql files by name, without the extension and without the comments at their heads.
type statements map[string]string

var embedded = load(files)

func load(from fs.FS) statements {
	texts := statements{}
	names, _ := fs.Glob(from, "*.sql") // the pattern is well-formed
	for _, name := range names {
		text, err := fs.ReadFile(from, name)
		if err != nil {
			panic("spendflush/sql: an embedded file can't be read: " + err.Error())
		}
		texts[strings.TrimSuffix(name, ".sql")] = withoutComments(string(text))
	}
	return texts
}

// withoutComments leaves out the lines that are comments: they would travel with every call.
func withoutComments(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, ""))
}

// get returns the statement of that name. A name without a file is a mistake in this package.
func (s statements) get(name string) string {
	text, ok := s[name]
	if !ok {
		panic("spendflush/sql: no statement " + name)
	}
	return text
}
