package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"testing"
)

// typeChecker looks whether changed files would build, which takes milliseconds where building
// takes seconds.
type typeChecker struct {
	files   *token.FileSet
	imports types.Importer
	parsed  map[string][]sourceFile // by directory below the root
}

type sourceFile struct {
	name string // below the root
	text *ast.File
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

func newTypeChecker(t *testing.T, root string, all []mutant) *typeChecker {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles"}
	var dirs []string
	for _, m := range all {
		for _, e := range m.edits {
			if path.Ext(e.file) == ".go" {
				dirs = append(dirs, path.Dir(e.file))
			}
		}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for _, dir := range dirs {
		args = append(args, "./"+dir)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	c := &typeChecker{files: token.NewFileSet(), parsed: map[string][]sourceFile{}}
	for d := json.NewDecoder(stdout); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if dir, err := filepath.Rel(root, p.Dir); err == nil && slices.Contains(dirs, filepath.ToSlash(dir)) {
			c.parse(t, root, filepath.ToSlash(dir), p.GoFiles)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	c.imports = importer.ForCompiler(c.files, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	return c
}

func (c *typeChecker) parse(t *testing.T, root, dir string, names []string) {
	t.Helper()
	for _, name := range names {
		file := path.Join(dir, name)
		text, err := parser.ParseFile(c.files, filepath.Join(root, filepath.FromSlash(file)), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		c.parsed[dir] = append(c.parsed[dir], sourceFile{file, text})
	}
}

// changed returns why the packages of the files don't build with these texts, nil if they do. Files
// that aren't Go are looked at by nobody before they are run.
func (c *typeChecker) changed(texts map[string]string) error {
	for file := range texts {
		if path.Ext(file) != ".go" {
			continue
		}
		var all []*ast.File
		for _, source := range c.parsed[path.Dir(file)] {
			parsed := source.text
			if text, ok := texts[source.name]; ok {
				var err error
				if parsed, err = parser.ParseFile(c.files, source.name, text, 0); err != nil {
					return err
				}
			}
			all = append(all, parsed)
		}
		if len(all) == 0 {
			return fmt.Errorf("%s is in no package", file)
		}
		config := types.Config{Importer: c.imports}
		if _, err := config.Check(path.Dir(file), c.files, all, nil); err != nil {
			return err
		}
	}
	return nil
}
