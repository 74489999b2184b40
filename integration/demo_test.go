package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/spendflush/spendflush/spend"
)

// demonstration is a run of `spendflush-lab demo` that keeps everything in a directory of its own.
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
	return &demonstration{launchProgram(t, lab, "demo", variables, append([]string{"demo"}, args...)...), dir}
}

func (d *demonstration) says(text string) {
	d.t.Helper()
	d.said(&d.stdout, text, func(line string) bool { return strings.Contains(line, text) })
}

// ends checks the exit status, and that neither a process nor a file is left.
func (d *demonstration) ends(want int) {
	d.t.Helper()
	if status := d.waitFor(3 * patience); status != want {
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

func TestDemoBreaksEverythingUntilCtrlCAndItsBooksAreEqual(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--seconds", "600")
	for _, fault := range []string{"kill -9 of instance", "FLUSHALL", "SIGSTOP", "SIGCONT", "has found out: its lock is lost"} {
		d.says(fault)
	}
	d.signal(syscall.SIGINT)
	d.ends(0)
	d.printed("Equal to the last digit", "Deadlocks: 0.", "Every update sent is in the books exactly once, and of none it is unknown.",
		"got no answer", "weren't counted again")
	d.checkSent()
	text := d.stdout.String()
	if strings.Contains(text, "without spendflush") {
		t.Error("after Ctrl-C it went on to the direct writers")
	}
	if strings.Contains(text, "\x1b") {
		t.Error("there are escape sequences where there is no terminal")
	}
}

func TestDemoComparesWithDirectWritersThatDeadlock(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--seconds", "2", "--direct-seconds", "3")
	d.ends(0)
	d.printed("Equal to the last digit", "In their favour", "nothing lost, 0 deadlocks")
	d.checkSent()
	d.checkDirect()
}

// row returns the numbers of a row of the printed tables. dollars is zero where it has none.
func (d *demonstration) row(name string) (updates int, dollars spend.Amount) {
	d.t.Helper()
	found := regexp.MustCompile(`\n +` + name + ` +([0-9,]+)(?: +([0-9.]+))? *\n`).FindStringSubmatch(d.stdout.String())
	if found == nil {
		d.t.Fatalf("the row %q isn't printed", name)
	}
	updates, err := strconv.Atoi(strings.ReplaceAll(found[1], ",", ""))
	if err == nil && found[2] != "" {
		dollars, err = spend.ParseAmount(found[2])
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return updates, dollars
}

// checkSent checks what is told of the updates that the clients have sent.
func (d *demonstration) checkSent() {
	d.t.Helper()
	sent, dollars := d.row("sent")
	answered, _ := d.row("answered as committed")
	unknown, _ := d.row("of unknown fate")
	booked, inBooks := d.row("the books say")
	if sent == 0 || answered != sent || unknown != 0 || booked != sent || inBooks != dollars {
		d.t.Errorf("sent: %d of %s, answered: %d, unknown: %d, in the books: %d of %s", sent, dollars, answered, unknown, booked, inBooks)
	}
}

// checkDirect checks what is told of the direct writers.
func (d *demonstration) checkDirect() {
	d.t.Helper()
	taken, all := d.row("taken")
	written, through := d.row("written")
	lost, missing := d.row("lost")
	if written == 0 || taken != written+lost || all != through.Add(missing) {
		d.t.Errorf("taken: %d of %s, written: %d of %s, lost: %d of %s", taken, all, written, through, lost, missing)
	}
	deadlocks := regexp.MustCompile(`after ([0-9,]+) deadlocks`).FindStringSubmatch(d.stdout.String())
	if deadlocks == nil || deadlocks[1] == "0" {
		d.t.Errorf("no deadlocks are told: %q", deadlocks)
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

// Wrong usage is named before any server is started; what the instances refuse is wrong settings,
// too.
func TestDemoNamesWhatIsWrongWithItsCommandLineAndSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		variables, args []string
		says            string
	}{
		{nil, []string{"--seconds", "0"}, "allowed are 1 to 86400"},
		{nil, []string{"--direct-seconds", "-1"}, "allowed are 0 (leave it out) to 3600"},
		{nil, []string{"--listen", "0.0.0.0:80"}, `--listen: "0.0.0.0:80" is not allowed`},
		{nil, []string{"--program", "/nowhere/at/all"}, "/nowhere/at/all"},
		{nil, []string{"now"}, "now"},
		{[]string{"DATABASE_URL=postgres://localhost/books"}, nil, "unset DATABASE_URL and REDIS_URL"},
		{[]string{"SPENDFLUSH_LOCK_TTL=soon"}, nil, `SPENDFLUSH_LOCK_TTL: "soon"`},
	} {
		status, _, stderr := runProgram(t, lab, c.variables, append([]string{"demo"}, c.args...)...)
		if status != 2 || !strings.HasPrefix(stderr, "spendflush-lab: ") || !strings.Contains(stderr, c.says) {
			t.Errorf("%v demo %q: exit status %d instead of 2: %s", c.variables, c.args, status, stderr)
		}
	}
}
