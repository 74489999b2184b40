package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/lab/demo"
	"github.com/spendflush/spendflush/internal/terminal"
)

// passedOn are the settings that reach the instances of a demo.
var passedOn = []string{"SPENDFLUSH_SEAL_INTERVAL", "SPENDFLUSH_FLUSH_INTERVAL", "SPENDFLUSH_LOCK_TTL"}

func (p *program) demoCommand() *cobra.Command {
	config := demo.Config{Instances: 10}
	var seconds, direct int
	c := &cobra.Command{
		Use: "demo", Short: "Watch ten instances lose their lock holder, their Redis and their nerve, and no money",
		Args: func(c *cobra.Command, args []string) error {
			if err := cobra.NoArgs(c, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		Long: `Start a private Postgres and Redis and ten instances, send mixed traffic over HTTP, and break something every few
seconds: the lock holder is killed with -9, and once frozen until another one has its lock; once Redis is emptied. In the
end everything is drained, and what the clients have sent is compared with the books, row by row and to the last digit.
Each update has an id. A request without an answer, as its instance was killed, is sent again, to another instance, until one
says that it is committed: so every update that was sent must be in the books exactly once, and none may be unknown.
After that, ten writers write the same traffic directly for a while, row by row, for comparison.

The instances are processes of the program spendflush: the one beside this program, else the one on PATH, or what --program
names. Nothing of it stays: servers, processes and files are gone at the end. Ctrl-C ends the traffic and compares at once; a second
Ctrl-C ends everything without a word. Of the settings, SPENDFLUSH_SEAL_INTERVAL, SPENDFLUSH_FLUSH_INTERVAL and
SPENDFLUSH_LOCK_TTL count.

Exit status: 0 every update sent is in the books once, 1 one isn't or it couldn't be found out, 2 wrong usage or settings.`,
		Example: `  spendflush-lab demo
  spendflush-lab demo --seconds 300 --direct-seconds 0`,
		RunE: func(c *cobra.Command, _ []string) error {
			config.Traffic, config.Direct = time.Duration(seconds)*time.Second, time.Duration(direct)*time.Second
			switch {
			case seconds < 1 || seconds > 24*3600:
				return usageError{fmt.Errorf("--seconds: %d is not allowed; allowed are 1 to 86400", seconds)}
			case !loopback(config.Listen):
				return usageError{fmt.Errorf("--listen: %q is not allowed; allowed are addresses that only this machine can reach, such as 127.0.0.1:4180", config.Listen)}
			case direct < 0 || direct > 3600:
				return usageError{fmt.Errorf("--direct-seconds: %d is not allowed; allowed are 0 (leave it out) to 3600", direct)}
			}
			return p.demo(c.Context(), config)
		},
	}
	c.Flags().IntVar(&seconds, "seconds", 60, "how long there is traffic")
	c.Flags().IntVar(&direct, "direct-seconds", 10, "how long the direct writers write; 0 leaves them out")
	c.Flags().StringVar(&config.Listen, "listen", "127.0.0.1:0", "address of the first instance, whose page can be looked at")
	c.Flags().StringVar(&config.Program, "program", "", "the program spendflush (default: the one beside this program, else the one on PATH)")
	if err := c.MarkFlagFilename("program"); err != nil {
		panic("spendflush-lab: " + err.Error()) // there is no such flag
	}
	return c
}

// loopback says whether only this machine can connect there. The instances have no tokens.
func loopback(address string) bool {
	host, port, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && port != "" && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// findProgram returns the path of the program spendflush: the one that was built together with this
// one, else the one that a shell would run.
func findProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "spendflush"))
	if err != nil {
		path, err = exec.LookPath("spendflush")
	}
	if err != nil {
		return "", usageError{fmt.Errorf("the program spendflush is neither in %s nor on PATH: build it there or name it with --program", filepath.Dir(self))}
	}
	return path, nil
}

func (p *program) demo(ctx context.Context, config demo.Config) (err error) {
	if terminal.Lookup(p.environ, "DATABASE_URL") != "" || terminal.Lookup(p.environ, "REDIS_URL") != "" {
		return usageError{errors.New("demo uses a Postgres and Redis of its own, which it breaks: unset DATABASE_URL and REDIS_URL")}
	}
	if config.Program == "" {
		if config.Program, err = findProgram(); err != nil {
			return err
		}
	} else if _, err := exec.LookPath(config.Program); err != nil {
		return usageError{fmt.Errorf("--program: %w", err)}
	}
	for _, name := range passedOn {
		if value := terminal.Lookup(p.environ, name); value != "" {
			config.Settings = append(config.Settings, name+"="+value)
		}
	}
	config.Out = terminal.New(p.stdout, p.environ)

	// The first signal asks for an end with everything compared, the second one ends all. Who reads
	// what is printed may go away, as head does: that is a signal too, and must not end this
	// program before what it has started.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	go func() {
		for first := true; ; {
			select {
			case <-ctx.Done():
				return
			case s := <-signals:
				switch {
				case first:
					close(stop)
					first = false
				case s != syscall.SIGPIPE:
					cancel()
				}
			}
		}
	}()
	err = demo.Run(ctx, stop, config)
	if errors.Is(err, demo.ErrDiffer) {
		return errSilent // it is printed
	}
	if errors.Is(err, demo.ErrRefused) {
		return usageError{err}
	}
	return err
}
