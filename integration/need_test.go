package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// need runs .ci/need for a program that isn't there, as it goes for root of a Debian, and returns
// what was installed.
func need(t *testing.T, stdin string, variables ...string) (installed, said string, status int) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for name, script := range map[string]string{
		"apt-get": `echo "$@" >>"$LOG"`, "id": "echo 0", "uname": "echo Linux",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("../.ci/need", "go", "a-program-that-is-not-there")
	c.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "LOG=" + log}, variables...)
	c.Stdin = strings.NewReader(stdin)
	out, _ := c.CombinedOutput() // its status tells
	content, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content), string(out), c.ProcessState.ExitCode()
}

func TestNothingIsInstalledUnasked(t *testing.T) {
	t.Parallel()
	const line = "apt-get install -y --no-install-recommends a-program-that-is-not-there"
	for _, variables := range [][]string{nil, {"CI="}, {"INSTALL=0"}, {"CI=false"}} {
		installed, said, status := need(t, "y\n", variables...) // an answer, but no terminal that the question is on
		if installed != "" || status != 1 || !strings.Contains(said, line) || !strings.Contains(said, "INSTALL=1") {
			t.Errorf("%q: status %d, installed %q, said %q", variables, status, installed, said)
		}
	}
	for _, variable := range []string{"INSTALL=1", "CI=true"} {
		installed, said, status := need(t, "", variable)
		if !strings.Contains(installed, "install -y -q --no-install-recommends a-program-that-is-not-there") || status != 0 {
			t.Errorf("%s: status %d, installed %q, said %q", variable, status, installed, said)
		}
	}
}
