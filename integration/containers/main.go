// Command containers runs a test program with a Postgres and a Redis in containers, which are its
// own and end with it. It is for go test, as "make containers" calls it:
//
//	go test -exec containers ./sql/pgstore
//
// SPENDFLUSH_TEST_POSTGRES_IMAGE and SPENDFLUSH_TEST_REDIS_IMAGE name the images. The exit status
// is that of the test program, or 1 if there are no servers for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "containers:", err)
		status = max(status, 1)
	}
	os.Exit(status)
}

func run(program []string) (status int, err error) {
	if len(program) == 0 {
		return 0, errors.New("no program is given: containers PROGRAM [ARGUMENT...]")
	}
	// What a terminal or go test sends is for the program too: it ends first, then its servers.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	environ, stop, err := startServers(signals)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Env = append(os.Environ(), environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended
		case err := <-ended:
			if _, ok := errors.AsType[*exec.ExitError](err); ok {
				return max(cmd.ProcessState.ExitCode(), 1), nil // -1 after a signal
			}
			return 0, err
		}
	}
}

// startServers starts a Postgres and a Redis and returns the variables by which tests find them. A
// signal breaks it off. What stop ends is what has been started, whatever the error.
func startServers(signals <-chan os.Signal) (environ []string, stop func() error, err error) {
	var stops []func(context.Context) error
	stop = func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		for _, f := range stops {
			err = errors.Join(err, f(ctx))
		}
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if err := engineAnswers(ctx); err != nil {
		return nil, stop, err
	}

	var mu sync.Mutex // guards stops, environ and err
	var starting sync.WaitGroup
	for _, s := range []*server{postgres(), redisServer()} {
		starting.Go(func() {
			url, end, failed := s.start(ctx)
			mu.Lock()
			defer mu.Unlock()
			if failed != nil {
				err = errors.Join(err, failed)
				return
			}
			stops, environ = append(stops, end), append(environ, s.variable+"="+url)
		})
	}
	started := make(chan struct{})
	go func() {
		defer close(started)
		starting.Wait()
	}()
	select {
	case s := <-signals:
		cancel(fmt.Errorf("broken off by a signal: %s", s))
		<-started
		err = errors.Join(context.Cause(ctx), err)
	case <-started:
	}
	return environ, stop, err
}
