package servers

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakePrograms makes programs that print a version, for looking for them; nobody starts them as
// servers.
func fakePrograms(t *testing.T, bin, version string) {
	t.Helper()
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"postgres", "initdb"} {
		script := "#!/bin/sh\necho '" + program + " (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(bin, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheNewestPostgresIsTakenByNumberNotByText(t *testing.T) {
	root := tempDir(t)
	t.Setenv("PATH", "/nowhere")
	var want []string
	for _, version := range []string{"17", "16", "10", "9.6"} {
		bin := filepath.Join(root, version, "bin")
		fakePrograms(t, bin, version)
		want = append(want, bin)
	}
	if got := postgresBins([]string{filepath.Join(root, "*", "bin")}); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestAPostgresWithoutInitdbIsNone(t *testing.T) {
	root := tempDir(t)
	t.Setenv("PATH", "/nowhere")
	bin := filepath.Join(root, "15", "bin")
	fakePrograms(t, bin, "15.1")
	if err := os.Remove(filepath.Join(bin, "initdb")); err != nil {
		t.Fatal(err)
	}
	if got := postgresBins([]string{filepath.Join(root, "*", "bin")}); len(got) != 0 {
		t.Errorf("found %q", got)
	}
}

func TestDataOfAnotherMajorVersionAsksForItsPrograms(t *testing.T) {
	dir := tempDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("8\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	e, ok := errors.AsType[*MissingError](err)
	if !ok || !strings.HasSuffix(e.Program, " 8") || e.Install == "" {
		t.Errorf("error %v, want a *MissingError with version 8", err)
	}
}

func TestTheDirectoryThatKeepsTheServersAccountOutIsNamed(t *testing.T) {
	closed := filepath.Join(tempDir(t), "closed")
	dir := filepath.Join(closed, "open", "dir")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const stranger = 54321 // neither we nor in our group
	a := &account{name: "stranger", uid: stranger, gid: stranger}
	if err := a.checkReach(dir); err != nil {
		t.Errorf("with nothing in the way: %v", err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	err := a.checkReach(dir)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), closed+" has mode") {
		t.Errorf("error %v, want one that names %s", err, closed)
	}
}
