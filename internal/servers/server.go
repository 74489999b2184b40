package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spendflush/spendflush/internal/trust"
)

const (
	loopback     = "127.0.0.1"
	pollInterval = 10 * time.Millisecond // between tries to connect to a server that is starting
	probeTimeout = 5 * time.Second       // for one such try
	portTries    = 5

	// refusedTimeout is how long a server that can't have the port may take to end.
	refusedTimeout = 2 * time.Second
)

// PortInUseError says that something else listens on the port asked for.
type PortInUseError struct {
	Port int
}

func (e *PortInUseError) Error() string { return fmt.Sprintf("port %d is in use", e.Port) }

// ErrEnded is wrapped by the error of a server that ended by itself while it was starting.
var ErrEnded = errors.New("ended while it was starting")

// errRefused is wrapped by the error of a probe that no further try will help, if it comes from the
// server itself.
var errRefused = errors.New("refused")

// server is what all servers here are: a program that listens on a port and can be ended and
// started again. Its methods may be called by several goroutines.
type server struct {
	name       string // of the program
	dir        string
	logWriter  io.Writer                                 // gets the log too, if not nil
	stopSignal syscall.Signal                            // asks for a clean end
	prepare    func(ctx context.Context) error           // before each start; the directory is locked
	command    func(port int) (*exec.Cmd, error)         // to be started; without its log
	probe      func(ctx context.Context, port int) error // returns nil if the server answers

	turn chan struct{} // holds one token while Stop or Restart works
	lock *os.File      // of dir; nil when stopped; only for who has the turn

	mu      sync.Mutex // guards what follows; never held while waiting
	port    int        // fixed by the first start
	process *process   // the last one started
}

// launch starts the server for the first time. If port is 0, it finds a free one. After an error
// nothing is left running.
func (s *server) launch(ctx context.Context, port int) error {
	s.turn = make(chan struct{}, 1)
	s.port = port
	err := s.start(ctx)
	if err != nil {
		s.unlock()
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	return nil
}

// start locks the directory and starts the program. It returns when the server answers.
func (s *server) start(ctx context.Context) error {
	if s.lock == nil {
		lock, err := lockDir(s.dir)
		if err != nil {
			return err
		}
		s.lock = lock
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if port := s.Port(); port != 0 {
		if portTaken(port) {
			return &PortInUseError{Port: port}
		}
		return s.startOn(ctx, port)
	}
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		err = s.startOn(ctx, port)
		if err == nil {
			s.mu.Lock()
			s.port = port
			s.mu.Unlock()
			return nil
		}
		// Another program may have been quicker to take the port.
		if !errors.Is(err, ErrEnded) || !portTaken(port) || try == portTries {
			return err
		}
	}
}

func (s *server) startOn(ctx context.Context, port int) error {
	cmd, err := s.command(port)
	if err != nil {
		return err
	}
	log, err := trust.Open(s.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := log.Stat()
	if err != nil {
		log.Close()
		return err
	}
	cmd.Stdout = log
	if s.logWriter != nil {
		cmd.Stdout = io.MultiWriter(log, s.logWriter)
		cmd.WaitDelay = time.Second // children may keep the pipe open
	}
	cmd.Stderr = cmd.Stdout
	p, err := startProcess(cmd, s.stopSignal, log)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.process = p
	s.mu.Unlock()
	if err := s.await(ctx, p, port); err != nil {
		return errors.Join(err, p.kill(), fmt.Errorf("end of %s:\n%s", s.logPath(), lastLines(s.logPath(), st.Size())))
	}
	return nil
}

// await returns when the server answers, has ended or ctx is done.
func (s *server) await(ctx context.Context, p *process, port int) error {
	// A try ends with the server: another program that has the port may keep it waiting.
	alive, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		defer cancel()
		select {
		case <-p.done:
		case <-alive.Done():
		}
	})
	defer watch.Wait()
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(alive, probeTimeout)
		err := s.probe(try, port)
		cancel()
		// A server that has ended didn't answer: another program on this port did.
		if err == nil && !p.ended() {
			return nil
		}
		wait := tick.C
		if errors.Is(err, errRefused) {
			// Another program that has the port may have refused us. Then our server is about to
			// end.
			wait = time.After(refusedTimeout)
		}
		select {
		case <-p.done:
			return fmt.Errorf("%w (%v)", ErrEnded, p.err)
		case <-ctx.Done():
			return fmt.Errorf("wait for an answer: %w (last: %w)", ctx.Err(), err)
		case <-wait:
			if errors.Is(err, errRefused) {
				return err
			}
		}
	}
}

// Port returns the port on 127.0.0.1. It stays the same for good.
func (s *server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// Dir returns the absolute path of the server's directory.
func (s *server) Dir() string { return s.dir }

// PID returns the id of the server's first process, running or not.
func (s *server) PID() int { return s.current().pid() }

// Done returns a channel that is closed when the server, as last started, has ended for whatever
// reason.
func (s *server) Done() <-chan struct{} { return s.current().done }

func (s *server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// Stop ends the server cleanly, waits until it is gone and gives its directory free. When ctx is
// done first, Stop kills the server and returns ctx's error. Stopping a server that isn't running
// is no error.
func (s *server) Stop(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop %s: %w", s.name, ctx.Err()), s.Kill())
	}
	err := s.end(ctx)
	s.unlock()
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	return nil
}

// end asks the program to end and waits for that; it kills it when ctx is done first.
func (s *server) end(ctx context.Context) error {
	p := s.current()
	err := p.signal(s.stopSignal)
	if err == nil {
		err = p.signal(syscall.SIGCONT) // it may be paused
	}
	if err == nil {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			err = fmt.Errorf("killed, for it didn't end in time: %w", ctx.Err())
		}
	}
	return errors.Join(err, p.kill())
}

// Kill ends all processes of the server by SIGKILL, as a crash would, and waits until they are
// gone. The directory stays locked for Restart; call Stop to give it free.
func (s *server) Kill() error { return s.current().kill() }

// Restart stops the server, if it is running, and starts it in the same directory on the same port.
// It returns when the server answers. After an error the server isn't running.
func (s *server) Restart(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("restart %s: %w", s.name, ctx.Err())
	}
	err := s.end(ctx)
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		return fmt.Errorf("restart %s: %w", s.name, err)
	}
	return nil
}

// Pause stops the server's first process by SIGSTOP: connections stay open, and nothing is answered
// until Resume.
func (s *server) Pause() error { return s.current().signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *server) Resume() error { return s.current().signal(syscall.SIGCONT) }

func (s *server) unlock() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}

func (s *server) logPath() string { return filepath.Join(s.dir, s.name+".log") }

// freePort finds a port that nobody listens on. It keeps clear of the ports that systems give to
// outgoing connections: on one of those, a client that keeps dialing a killed server may be
// connected to itself, and the server couldn't come back.
func freePort() (int, error) {
	const first, last, tries = 10240, 32000, 100
	for range tries {
		if port := first + rand.IntN(last-first); !portTaken(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d in %d tries", first, last, tries)
}

func portTaken(port int) bool {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return true
	}
	l.Close()
	return false
}

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
