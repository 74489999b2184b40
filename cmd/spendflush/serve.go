package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/httpapi"
	"github.com/spendflush/spendflush/internal/overview"
)

func (p *program) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run an instance", Args: noArgs,
		Long: `Run an instance: take updates over HTTP, queue them in Redis and flush them to Postgres.

SIGTERM or Ctrl-C drains and stops, within SPENDFLUSH_SHUTDOWN_TIMEOUT; a second signal stops at once.

Exit status: 0 stopped with everything drained, 1 something could not be drained or the instance could not run, 2 wrong
usage or settings.`,
		Example: `  DATABASE_URL=postgres://localhost/spend REDIS_URL=redis://localhost spendflush serve
  USE_REDIS_TRANSACTION_BUFFER=false DATABASE_URL=postgres://localhost/spend spendflush serve`,
		RunE: func(c *cobra.Command, _ []string) error {
			outliveReaders()
			set, err := load(p.environ, needDatabase|needQueue)
			if err != nil {
				return err
			}
			log := newLogger(set, p.stderr)
			if names := unknownSettings(p.environ); len(names) > 0 {
				log.Warn("settings that don't exist are ignored; `spendflush env` lists those that do", "names", names)
			}
			return p.serve(c.Context(), set, log, nil)
		},
	}
}

// serve runs an instance until a signal or the end of ctx, which means the same as one. ready, if not nil, is called
// once the instance takes updates.
func (p *program) serve(ctx context.Context, set *settings, log *slog.Logger, ready func(*instance)) error {
	in, err := newInstance(ctx, set, log)
	if err != nil {
		return err
	}
	defer in.parts.close()
	return in.run(ctx, ready)
}

// instance is a running pipeline with its API.
type instance struct {
	*parts
	pipeline *spendflush.Pipeline
	overview *overview.Live
	server   *http.Server
	listener net.Listener
	migrated atomic.Bool
}

func newInstance(ctx context.Context, set *settings, log *slog.Logger) (*instance, error) {
	listener, err := net.Listen("tcp", set.Listen)
	if err != nil {
		return nil, fmt.Errorf("SPENDFLUSH_LISTEN: %w", err)
	}
	ps, err := newParts(ctx, set, log)
	if err != nil {
		listener.Close()
		return nil, err
	}
	if err := ps.openJournal(); err != nil {
		listener.Close()
		ps.close()
		return nil, err
	}
	in := &instance{parts: ps, listener: netutil.LimitListener(listener, set.MaxClients)}
	registry := newRegistry(ps)
	if in.pipeline, err = ps.pipeline(registry); err == nil {
		in.overview = overview.NewLive(ps.sources(), in.pipeline, overview.LiveOptions{
			Version: programVersion(), Logger: log, Deadlocks: func() int64 { return ps.store.Stats().Deadlocks },
		})
		in.server, err = in.api(registry)
	}
	if err != nil {
		listener.Close()
		ps.close()
		return nil, err
	}
	return in, nil
}

// outliveReaders has the program go on to its end, its output lost, when whoever reads its standard output or error has
// gone: by default the signal for that would end it with all that it holds. Were it ignored, the processes that are
// started would inherit that; so it is sent to nobody.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

func (in *instance) run(ctx context.Context, ready func(*instance)) error {
	// The first signal asks for a stop with everything drained, the second one ends that.
	first, stopFirst := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stopFirst()
	hard, cancelHard := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelHard()

	var work sync.WaitGroup
	defer work.Wait()
	failed := make(chan error, 3)
	work.Go(func() {
		if err := in.pipeline.Run(hard); err != nil {
			failed <- err
		}
	})
	work.Go(func() {
		if err := in.server.Serve(in.listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve: %w", err)
		}
	})
	work.Go(func() { in.overview.Publish(hard) })
	work.Go(func() {
		in.probe(first)
		if err := in.migrate(first); err != nil {
			if first.Err() == nil {
				failed <- fmt.Errorf("migrate: %w", err)
			}
			return
		}
		in.migrated.Store(true)
		in.log.Info("ready", "listen", in.listener.Addr().String())
		if ready != nil {
			ready(in)
		}
	})
	work.Go(func() { in.auditRegularly(first) })
	var err error
	select {
	case <-first.Done():
	case err = <-failed:
	}
	// Before stopFirst: a signal between the two would end the process without a word.
	second, stopSecond := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer stopSecond()
	stopFirst()
	if err != nil {
		in.log.Error("stopping", "error", err)
	} else {
		in.log.Info("stopping: draining what is in memory; a second signal stops at once", "timeout", in.set.ShutdownTimeout)
	}
	return errors.Join(err, in.drain(second, cancelHard))
}

// answerGrace is how long a stop waits for answers under way once everything is drained.
const answerGrace = time.Second

// drain stops taking updates and brings what is held out of the process, until the timeout or the end of ctx.
func (in *instance) drain(ctx context.Context, cancelHard context.CancelFunc) error {
	ctx, cancel := context.WithTimeout(ctx, in.set.ShutdownTimeout)
	defer cancel()
	answerCtx, cancelAnswers := context.WithCancel(ctx)
	defer cancelAnswers()
	var work sync.WaitGroup
	work.Go(func() {
		if err := in.server.Shutdown(answerCtx); err != nil {
			_ = in.server.Close()
		}
	})
	start := time.Now()
	err := in.pipeline.Shutdown(ctx)
	// Whoever waited for an acknowledgement has it now. Connections on which nothing was ever asked aren't waited for.
	stopWaiting := time.AfterFunc(answerGrace, cancelAnswers)
	defer stopWaiting.Stop()
	work.Wait()
	cancelHard()
	var left *spendflush.NotDrainedError
	if errors.As(err, &left) {
		in.log.Error("stopped with updates not drained: they are lost", "updates", left.Updates, "amount", left.Amount, "error", err)
		return err
	}
	in.log.Info("stopped; everything is drained", "took", time.Since(start))
	return err
}

// ready says why updates shouldn't be sent here yet.
func (in *instance) ready(context.Context) error {
	if !in.migrated.Load() {
		return errors.New("the database is not reached and migrated yet")
	}
	return nil
}

// denied says what Redis or Postgres refuses this instance, "" if nothing.
func (in *instance) denied() string {
	status := in.pipeline.Status()
	return status.Denied()
}

func (in *instance) api(registry *prometheus.Registry) (*http.Server, error) {
	api, err := httpapi.New(httpapi.Config{
		Recorder: in.pipeline,
		Reader:   in.store,
		Overview: in.overview,
		Tokens:   in.set.Tokens,
		Registry: registry,
		Logger:   in.log,
		Instance: in.set.Instance,
		Version:  programVersion(),
		Ready:    in.ready,
		Denied:   in.denied,
	})
	if err != nil {
		return nil, err
	}
	registry.MustRegister(api.Collector())
	return api.Server(in.set.Listen), nil
}
