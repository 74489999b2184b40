package integration

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// development is a run of `spendflush dev`.
type development struct {
	*process
	pids []int // of the servers that it started
}

func startDev(t *testing.T, dir string) *development {
	t.Helper()
	d := &development{process: launch(t, "dev", []string{"SPENDFLUSH_LISTEN=127.0.0.1:0"}, "dev", "--dir", dir)}
	d.said(&d.stdout, "that Ctrl-C stops", func(line string) bool { return strings.Contains(line, "Ctrl-C drains and stops") })
	d.pids = serverPIDs(t, dir)
	return d
}

// serverPIDs returns the process ids of the Postgres and the Redis whose data is in the directory.
func serverPIDs(t *testing.T, dir string) (pids []int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".pid" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(content), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(first))
		pids = append(pids, pid)
		return err
	})
	if err != nil || len(pids) != 2 {
		t.Fatalf("want the process ids of a Postgres and a Redis in %s: %v %v", dir, pids, err)
	}
	return pids
}

// openDir returns a new directory that another account can reach, as Postgres may run as one.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spendflush-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// paste runs the printed line that begins with curl and holds this text, as somebody would who pasted it into a shell.
func (d *development) paste(text string) (answer string) {
	d.t.Helper()
	line := d.said(&d.stdout, "a curl line with "+text, func(line string) bool {
		return strings.HasPrefix(line, "  curl ") && strings.Contains(line, text)
	})
	output, err := exec.Command("sh", "-c", strings.Replace(line, "curl ", "curl --silent --show-error --fail-with-body ", 1)).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", line, err, output)
	}
	return string(output)
}

// interrupt is Ctrl-C.
func (d *development) interrupt() {
	d.t.Helper()
	d.signal(syscall.SIGINT)
	if status := d.wait(); status != 0 {
		d.t.Errorf("exit status %d instead of 0", status)
	}
	for _, pid := range d.pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			d.t.Errorf("server process %d still runs: %v", pid, err)
		}
	}
}

func TestDevStartsWithoutSettingsAndKeepsItsData(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	spend := func(d *development) string {
		t.Helper()
		var answer struct {
			Committed struct{ Spend string }
		}
		text := d.paste("/v1/spend/team/team-1")
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return answer.Committed.Spend
	}

	d := startDev(t, dir)
	d.paste("/v1/updates")
	if got := spend(d); got != "0.000123" {
		t.Errorf("the team's spend is %q", got)
	}
	if usage := d.paste("/v1/usage"); !strings.Contains(usage, "gpt-5") || !strings.Contains(usage, "0.000123") {
		t.Errorf("usage: %s", usage)
	}
	d.said(&d.stdout, "what arrived", func(line string) bool { return strings.Contains(line, "updates accepted: 1,") })
	d.interrupt()

	d = startDev(t, dir)
	if got := spend(d); got != "0.000123" {
		t.Errorf("after a restart the team's spend is %q", got)
	}
	d.paste("/v1/updates")
	if got := spend(d); got != "0.000246" {
		t.Errorf("after the second update the team's spend is %q", got)
	}
	d.interrupt()
}
