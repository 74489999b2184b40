package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// killTimeout bounds how long killed processes may take to be gone. Only one stuck in the kernel
// takes any time.
const killTimeout = 10 * time.Second

// process is one run of a program.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the program has ended and was waited for
	err  error         // of cmd.Wait; to be read after done
}

// startProcess starts cmd in a process group of its own. Where the system can, the program gets the
// signal orphaned when this process dies. The log, if not nil, is closed when the program has ended
// or couldn't be started.
func startProcess(cmd *exec.Cmd, orphaned syscall.Signal, log io.Closer) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	setOrphanSignal(cmd.SysProcAttr, orphaned)

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// For the kernel the parent is the thread that forks, and the signal is sent when that
		// thread ends. So it is kept until the program has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if log != nil {
			defer log.Close()
		}
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// runToEnd runs a program that ends by itself. Its error has what the program said. When ctx is
// done first, the program is killed.
func runToEnd(ctx context.Context, cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := startProcess(cmd, syscall.SIGKILL, nil)
	if err != nil {
		return err
	}
	name := filepath.Base(cmd.Path)
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: %w", name, ctx.Err()), p.kill())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", name, p.err, indent(out.Bytes()))
	}
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended reports whether the program has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends sig to the program's first process. It does nothing if that has ended.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", sig, p.cmd.Path, err)
	}
	return nil
}

// kill ends the program and all its children by SIGKILL and waits until they are gone. Children
// that lead a session of their own, as Postgres's do, are killed too; the program is stopped first,
// so that it can't start more of them.
func (p *process) kill() error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		<-p.done
		return nil
	}
	deadline := time.Now().Add(killTimeout)
	for {
		pids, err := children(p.pid())
		if err != nil || len(pids) == 0 {
			break // without their pids they end by themselves, soon after their parent
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill %s: processes %v remain", p.cmd.Path, pids)
		}
		time.Sleep(time.Millisecond)
	}
	// The group is still there, for its leader hasn't been waited for.
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	select {
	case <-p.done:
		return nil
	case <-time.After(time.Until(deadline)):
		return fmt.Errorf("kill %s: process %d remains", p.cmd.Path, p.pid())
	}
}
