// Package integration runs the real binary on real servers: instances as processes of their own, a real Redis and a
// real Postgres, and faults. What clients were told is compared with the books, row by row and column by column.
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

// binary is the program under test, and testVersion is what it was linked to say.
var binary string

const testVersion = "v0.0.0-integration"

func TestMain(m *testing.M) {
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		os.Exit(1)
	}
	testserver.Main(m, func() error { return os.RemoveAll(dir) })
}

// build builds the program, with the race detector if these tests have it, into a new directory.
func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "spendflush-integration-"); err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "spendflush")
	args := []string{"build", "-o", binary, "-ldflags", "-X main.version=" + testVersion}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "../cmd/spendflush")...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build the program: %w\n%s", err, output), os.RemoveAll(dir))
	}
	return dir, nil
}
