package integration

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that happens sooner or later. It is long because the
// machine may be busy; no test is quicker or slower to pass for it.
const patience = 60 * time.Second

// process is a run of the program.
type process struct {
	t              testing.TB
	name           string
	cmd            *exec.Cmd
	stdout, stderr output
	copied         chan struct{} // closed when all of its output is in stdout, nil if exec sees to that
	done           chan struct{} // closed when it has ended, was waited for, and its output is there
}

// launch starts the program with these arguments and variables, "NAME=value" each; of this
// process's own variables it gets only those that say where things are. When the test ends it is
// killed, and its output shown if the test failed.
func launch(t testing.TB, name string, variables []string, args ...string) *process {
	t.Helper()
	return launchProgram(t, binary, name, variables, args...)
}

// launchProgram is launch for another build of the program.
func launchProgram(t testing.TB, program, name string, variables []string, args ...string) *process {
	t.Helper()
	p := prepare(t, program, name, variables, args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.start()
	return p
}

// prepare is launch for another build of the program, all but the start and where the output goes.
func prepare(t testing.TB, program, name string, variables []string, args ...string) *process {
	p := &process{t: t, name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	for _, inherited := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(inherited); ok {
			p.cmd.Env = append(p.cmd.Env, inherited+"="+value)
		}
	}
	p.cmd.Env = append(p.cmd.Env, variables...)
	p.cmd.WaitDelay = 10 * time.Second // servers that dev started may hold the pipes
	// A group of its own: Ctrl-C on the tests is not for it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.stdout.init()
	p.stderr.init()
	return p
}

func (p *process) start() {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the status is in cmd.ProcessState
		if p.copied != nil {
			select {
			case <-p.copied:
			case <-time.After(p.cmd.WaitDelay):
			}
		}
	}()
	p.t.Cleanup(p.clean)
}

// clean ends what is left of the process and shows what it said if the test failed.
func (p *process) clean() {
	p.kill()
	if strings.Contains(p.stderr.String(), "DATA RACE") {
		p.t.Errorf("%s: the race detector found something", p.name)
	}
	if p.t.Failed() {
		p.t.Logf("end of the output of %s:\n%s%s", p.name, p.stdout.tail(), p.stderr.tail())
	}
}

// run runs the program to its end.
func run(t testing.TB, variables []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return runProgram(t, binary, variables, args...)
}

// runProgram is run for another program.
func runProgram(t testing.TB, program string, variables []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := launchProgram(t, program, filepath.Base(program)+" "+strings.Join(args, " "), variables, args...)
	status = p.wait()
	return status, p.stdout.String(), p.stderr.String()
}

// mustRun runs the program and returns what it says on standard output. Any exit status but want is
// fatal.
func mustRun(t testing.TB, want int, variables []string, args ...string) string {
	t.Helper()
	status, stdout, stderr := run(t, variables, args...)
	if status != want {
		t.Fatalf("spendflush %s: exit status %d instead of %d\n%s%s", strings.Join(args, " "), status, want, stdout, stderr)
	}
	return stdout
}

func (p *process) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.name, err)
	}
}

// kill is kill -9. It returns when the process is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// wait returns the exit status, -1 after a signal. A process that doesn't end is fatal.
func (p *process) wait() int {
	p.t.Helper()
	return p.waitFor(patience)
}

func (p *process) waitFor(patience time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.signal(syscall.SIGQUIT) // its goroutines get into its output
		p.t.Fatalf("%s doesn't end", p.name)
		return 0
	}
}

// stop asks the process to stop and checks its exit status.
func (p *process) stop(want int) {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != want {
		p.t.Errorf("%s: exit status %d instead of %d", p.name, status, want)
	}
}

// running reports whether the process has not ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// said waits until the process has written a line, to stdout or stderr as given, for which match
// says true, and returns it. Its end without such a line is fatal.
func (p *process) said(o *output, what string, match func(line string) bool) string {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		running := p.running()
		text, grown := o.look()
		for line := range strings.Lines(text) {
			if match(line) {
				return line
			}
		}
		if !running {
			p.t.Fatalf("%s ended without saying %s; exit status %d", p.name, what, p.cmd.ProcessState.ExitCode())
		}
		select {
		case <-grown:
		case <-p.done:
		case <-deadline:
			p.t.Fatalf("%s doesn't say %s", p.name, what)
		}
	}
}

func (p *process) logged(text string) string {
	p.t.Helper()
	return p.said(&p.stderr, text, func(line string) bool { return strings.Contains(line, text) })
}

// output collects what a process writes.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{} // closed and replaced at each write
}

func (o *output) init() { o.grown = make(chan struct{}) }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.grown)
	o.grown = make(chan struct{})
	return o.text.Write(b)
}

func (o *output) look() (text string, grown <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.grown
}

func (o *output) String() string {
	text, _ := o.look()
	return text
}

// tail returns the end of the output, without the lines about requests.
func (o *output) tail() string {
	const most = 6000
	var text strings.Builder
	for line := range strings.Lines(o.String()) {
		if !strings.Contains(line, `"msg":"request"`) {
			text.WriteString(line)
		}
	}
	return text.String()[max(0, text.Len()-most):]
}

// eventually waits until met returns "", which says that the condition is met; else it returns what
// is missing.
func eventually(t testing.TB, what string, met func() (missing string)) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		missing := met()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %s", what, patience, missing)
		}
	}
}
