package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spendflush/spendflush/internal/servers"
)

// instance is one of the places where `spendflush serve` runs. Processes follow each other there:
// what was killed is started again. It is used by the goroutine that does the faults; the others
// look at it through address and state.
type instance struct {
	number  int
	program string
	environ []string // of all instances
	listen  string   // the address of the first process; later ones use what that got

	runs    int // processes so far
	process *servers.Program
	log     *runLog

	mu    sync.Mutex // guards what follows
	url   string     // "" while it takes no updates
	doing string     // for the view: starting, ready, killed, frozen, stopped
}

// name is what the process calls itself, and so what the lock's owner is called.
func (in *instance) name() string { return fmt.Sprintf("instance-%d.%d", in.number, in.runs) }

func (in *instance) String() string { return fmt.Sprintf("instance %d", in.number) }

// start starts a process. It doesn't wait until that is ready.
func (in *instance) start() error {
	in.runs++
	cmd := exec.Command(in.program, "serve")
	cmd.Env = append(slices.Clone(in.environ), "SPENDFLUSH_INSTANCE="+in.name(), "SPENDFLUSH_LISTEN="+in.listen,
		"SPENDFLUSH_DRAIN_DELAY=0s") // its clients know which ones stop
	in.log = &runLog{ready: make(chan struct{})}
	cmd.Stderr = in.log
	in.set("", "starting")
	process, err := servers.StartProgram(cmd)
	if err != nil {
		return err
	}
	in.process = process
	return nil
}

// awaitReady blocks until the process takes updates.
func (in *instance) awaitReady(ctx context.Context) error {
	select {
	case <-in.log.ready:
		in.listen = in.log.listen // the page stays where it is
		in.set("http://"+in.listen, "ready")
		return nil
	case <-in.process.Done():
		return in.ended()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refusedStatus is the exit status of a program that tried nothing, as its settings are wrong.
const refusedStatus = 2

// ended is the error of a process that ended by itself.
func (in *instance) ended() error {
	if in.process.Status() == refusedStatus {
		return fmt.Errorf("%w:\n%s", ErrRefused, in.log.tail())
	}
	return fmt.Errorf("%s ended by itself with exit status %d; the end of its log:\n%s", in, in.process.Status(), in.log.tail())
}

// kill is kill -9. It returns when the process is gone.
func (in *instance) kill() error {
	in.set("", "killed")
	err := in.process.Signal(syscall.SIGKILL)
	<-in.process.Done()
	return err
}

// freeze stops the process where it is: its connections stay open and nothing is answered.
func (in *instance) freeze() error {
	in.set(in.address(), "frozen")
	return in.process.Signal(syscall.SIGSTOP)
}

func (in *instance) thaw() error {
	in.set(in.address(), "ready")
	return in.process.Signal(syscall.SIGCONT)
}

// askToStop begins a stop that drains.
func (in *instance) askToStop() error {
	in.set("", "stopping")
	return in.process.Signal(syscall.SIGTERM)
}

// awaitStop blocks until the process has drained and ended.
func (in *instance) awaitStop(ctx context.Context) error {
	select {
	case <-in.process.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	if in.process.Status() != 0 {
		return in.ended()
	}
	in.set("", "stopped")
	return nil
}

func (in *instance) set(url, doing string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.url, in.doing = url, doing
}

// address returns where the instance takes updates, "" while it doesn't.
func (in *instance) address() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.url
}

func (in *instance) state() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.doing
}

// runLog reads the log of a process, which it gets in pieces.
type runLog struct {
	ready  chan struct{} // closed when the process says that it is ready
	listen string        // to be read after ready

	mu    sync.Mutex // guards what follows
	begun []byte     // of a line
	last  []string   // lines of warnings and errors, and those that are no log at all
}

const keptLines = 20

// Write implements io.Writer.
func (l *runLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = append(l.begun, b...)
	for {
		line, rest, found := bytes.Cut(l.begun, []byte("\n"))
		if !found {
			return len(b), nil
		}
		l.read(line)
		l.begun = append(l.begun[:0], rest...)
	}
}

// read looks at a line. The caller must hold mu.
func (l *runLog) read(line []byte) {
	var entry struct{ Level, Msg, Listen string }
	err := json.Unmarshal(line, &entry)
	switch {
	case err == nil && entry.Msg == "ready" && l.listen == "":
		l.listen = entry.Listen
		close(l.ready)
	case err != nil || entry.Level != "INFO":
		l.last = append(l.last[max(0, len(l.last)-keptLines+1):], string(line))
	}
}

func (l *runLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return "\t" + strings.Join(l.last, "\n\t")
}
