package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// demonstration is a run of `spendflush demo` that keeps everything in a directory of its own.
type demonstration struct {
	*process
	dir string
}

func startDemo(t *testing.T, args ...string) *demonstration {
	t.Helper()
	dir, err := os.MkdirTemp("", "spendflush-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres may run as another account
		t.Fatal(err)
	}
	variables := []string{"TMPDIR=" + dir, "SPENDFLUSH_LOCK_TTL=1s"}
	return &demonstration{launch(t, "demo", variables, append([]string{"demo"}, args...)...), dir}
}

func (d *demonstration) says(text string) {
	d.t.Helper()
	d.said(&d.stdout, text, func(line string) bool { return strings.Contains(line, text) })
}

// ends checks the exit status, and that neither a process nor a file is left.
func (d *demonstration) ends(want int) {
	d.t.Helper()
	if status := d.wait(); status != want {
		d.t.Errorf("exit status %d instead of %d", status, want)
	}
	if files, err := os.ReadDir(d.dir); err != nil || len(files) > 0 {
		d.t.Errorf("left behind: %v %v", files, err)
	}
	for _, name := range []string{"environ", "cmdline"} { // the servers are told of it in the one, the instances in the other
		paths, err := filepath.Glob("/proc/[0-9]*/" + name)
		if err != nil || len(paths) == 0 {
			d.t.Fatalf("no processes can be looked at: %v", err)
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err == nil && bytes.Contains(content, []byte(d.dir)) {
				d.t.Errorf("still running: %s: %q", path, content)
			}
		}
	}
}

func (d *demonstration) printed(texts ...string) {
	d.t.Helper()
	for _, text := range texts {
		if !strings.Contains(d.stdout.String(), text) {
			d.t.Errorf("%q isn't printed", text)
		}
	}
}

func TestDemoBreaksEverythingAndItsBooksAreEqual(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--seconds", "15", "--direct-seconds", "3")
	d.ends(0)
	d.printed("kill -9 of instance", "FLUSHALL", "SIGSTOP", "Equal to the last digit", "Deadlocks: 0.",
		"Every acknowledged update is counted once.", "updates written", "deadlocks, lost after three retries")
	if strings.Contains(d.stdout.String(), "\x1b") {
		t.Error("there are escape sequences where there is no terminal")
	}
}

func TestCtrlCEndsTheTrafficOfADemoAndComparesIt(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--seconds", "600")
	d.says("kill -9 of instance")
	d.signal(syscall.SIGINT)
	d.ends(0)
	d.printed("Equal to the last digit")
	if strings.Contains(d.stdout.String(), "without spendflush") {
		t.Error("after Ctrl-C it went on to the direct writers")
	}
}

func TestCtrlCWhileADemoStartsOrTwiceLeavesNothing(t *testing.T) {
	t.Parallel()
	early := startDemo(t)
	early.says("starting 10 instances")
	early.signal(syscall.SIGINT)
	early.ends(1)
	if text := early.stderr.String(); !strings.Contains(text, "stopped before there was anything to compare") {
		t.Errorf("it says %q", text)
	}

	twice := startDemo(t, "--seconds", "600")
	twice.says("clients send updates")
	twice.signal(syscall.SIGINT)
	twice.says("no more faults")
	twice.signal(syscall.SIGINT)
	twice.ends(1)
}
