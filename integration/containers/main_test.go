package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Tests must not run on other servers than those they were to run on.
func TestWithoutAnEngineNothingIsRunAndTheReasonIsTold(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(dir, "nobody"))
	_, err := run([]string{"touch", filepath.Join(dir, "ran")})
	if err == nil || !strings.Contains(err.Error(), "no Docker engine answers") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); !os.IsNotExist(err) {
		t.Errorf("the program was run: %v", err)
	}
	if _, err := run(nil); err == nil || !strings.Contains(err.Error(), "no program is given") {
		t.Errorf("without a program: %v", err)
	}
}
