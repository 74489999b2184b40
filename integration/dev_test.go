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

// paste runs the printed line that begins with curl and holds this text, as somebody would who
// pasted it into a shell.
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

// unprivileged prepares a run of the program as another user than root, who would be let in
// everywhere, with only these variables and the way to programs.
func unprivileged(t *testing.T, shared string, variables []string, args ...string) *exec.Cmd {
	t.Helper()
	program := binary
	c := &exec.Cmd{Dir: "/", Env: append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + shared}, variables...)}
	if os.Geteuid() == 0 {
		content, err := os.ReadFile(binary)
		program = filepath.Join(shared, "spendflush")
		if err = errors.Join(err, os.WriteFile(program, content, 0o755)); err != nil {
			t.Fatal(err)
		}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	c.Path, c.Args = program, append([]string{program}, args...)
	return c
}

// refuses checks that a run ends with the status of wrong usage, and says these words.
func refuses(t *testing.T, c *exec.Cmd, words ...string) {
	t.Helper()
	out, _ := c.CombinedOutput() // its status tells
	if status := c.ProcessState.ExitCode(); status != 2 {
		t.Errorf("%q: exit status %d instead of 2\n%s", c.Args, status, out)
	}
	for _, word := range words {
		if !strings.Contains(string(out), word) {
			t.Errorf("%q doesn't say %q:\n%s", c.Args, word, out)
		}
	}
}

func TestDevRefusesADirectoryThatAnotherUserMade(t *testing.T) {
	t.Parallel()
	shared := openDir(t)
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	// As an attacker prepares it: data directories open to all, with passwords that he knows.
	dir := filepath.Join(shared, "spendflush-dev")
	for _, server := range []string{"postgres", "redis"} {
		below := filepath.Join(dir, server)
		err := errors.Join(os.MkdirAll(below, 0o777), os.Chmod(dir, 0o777), os.Chmod(below, 0o777),
			os.WriteFile(filepath.Join(below, "password"), []byte("known\n"), 0o666), os.Chmod(filepath.Join(below, "password"), 0o666))
		if err != nil {
			t.Fatal(err)
		}
	}
	says := "has mode drwxrwxrwx; allowed is a directory that its owner alone may write to"
	if os.Geteuid() == 0 {
		const attacker = 12345
		if err := os.Chown(dir, attacker, attacker); err != nil {
			t.Fatal(err)
		}
		says = "belongs to user id 12345; allowed is a directory of user id 65534 or of root"
	}
	refuses(t, unprivileged(t, shared, []string{"HOME=" + shared}, "dev", "--dir", dir), dir+" "+says)
	for _, server := range []string{"postgres", "redis"} {
		if found, err := os.ReadDir(filepath.Join(dir, server)); err != nil || len(found) != 1 {
			t.Errorf("%s: something was made there: %v %v", server, found, err)
		}
	}

	// Without a home it doesn't look for a place that others can reach, too.
	for _, variables := range [][]string{nil, {"HOME="}, {"HOME=here"}, {"XDG_DATA_HOME=here"}} {
		refuses(t, unprivileged(t, shared, variables, "dev"), "neither HOME nor XDG_DATA_HOME", "--dir")
	}
}

func TestAJournalInADirectoryThatOthersMayWriteToIsRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	dir := filepath.Join(openDir(t), "journal")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := run(t, s.variables("SPENDFLUSH_JOURNAL_DIR="+dir), "serve")
	if status != 2 || !strings.Contains(stderr, "SPENDFLUSH_JOURNAL_DIR: journal "+dir+": "+dir+" has mode drwxrwxrwx") {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
}

func TestMakeUsesNoHomeThatOthersMayWriteTo(t *testing.T) {
	t.Parallel()
	tmp := openDir(t)
	home := filepath.Join(tmp, "spendflush-home-"+strconv.Itoa(os.Geteuid()))
	homeOfMake := func() string {
		t.Helper()
		c := exec.Command("make", "--no-print-directory", "-C", "..", "--eval", "print-home:;@echo $(HOME)", "print-home")
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := homeOfMake(); got != home {
		t.Errorf("without a home it is %s, want %s", got, home)
	}
	for _, mode := range []os.FileMode{0o777, 0o770, 0o702} {
		if err := os.Chmod(home, mode); err != nil {
			t.Fatal(err)
		}
		if got := homeOfMake(); got == home || !strings.HasPrefix(got, tmp) {
			t.Errorf("with mode %o it is %s", mode, got)
		}
	}
	elsewhere := t.TempDir()
	if err := errors.Join(os.Remove(home), os.Symlink(elsewhere, home)); err != nil {
		t.Fatal(err)
	}
	if got := homeOfMake(); got == home || got == elsewhere {
		t.Errorf("a link is followed to %s", got)
	}
}
