package servers

import (
	"os/exec"
	"syscall"
)

// Program is a program that runs beside the servers, such as an instance that uses them. It leads a
// process group of its own, so that Ctrl-C on a terminal isn't for it, and where the system can it
// is killed when this process dies. Its methods may be called by several goroutines.
type Program struct{ process *process }

// StartProgram starts a program.
func StartProgram(cmd *exec.Cmd) (*Program, error) {
	p, err := startProcess(cmd, syscall.SIGKILL, nil)
	if err != nil {
		return nil, err
	}
	return &Program{p}, nil
}

// PID returns the id of its process, running or not.
func (p *Program) PID() int { return p.process.pid() }

// Done returns a channel that is closed when the program has ended.
func (p *Program) Done() <-chan struct{} { return p.process.done }

// Status blocks until the program has ended and returns its exit status, -1 if a signal ended it.
func (p *Program) Status() int {
	<-p.process.done
	return p.process.cmd.ProcessState.ExitCode()
}

// Signal sends the signal. It does nothing if the program has ended.
func (p *Program) Signal(sig syscall.Signal) error { return p.process.signal(sig) }

// Kill ends the program and its children by SIGKILL and waits until they are gone.
func (p *Program) Kill() error { return p.process.kill() }
