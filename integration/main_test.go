// Package integration runs the real binary on real servers: instances as processes of their own, a
// real Redis and a real Postgres, and faults. What clients were told is compared with the books,
// row by row and column by column.
package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// binary is the program under test, lab the one that shows what it does, beside it. testVersion is
// what they were linked to say.
var binary, lab string

const testVersion = "v0.0.0-integration"

func TestMain(m *testing.M) {
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
	testserver.Main(m, func() error { return os.RemoveAll(dir) })
}

// build builds the programs, with the race detector if these tests have it, into a new directory.
func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "spendflush-integration-"); err != nil {
		return "", err
	}
	binary, lab = filepath.Join(dir, "spendflush"), filepath.Join(dir, "spendflush-lab")
	args := []string{"build", "-o", dir, "-ldflags", "-X main.version=" + testVersion}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/...")...)
	cmd.Dir = ".." // built as a user builds it, with what the module itself requires
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build the programs: %w\n%s", err, output), os.RemoveAll(dir))
	}
	return dir, nil
}
