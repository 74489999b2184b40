package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/httpapi"
	"github.com/spendflush/spendflush/internal/keypair"
	"github.com/spendflush/spendflush/internal/overview"
	"github.com/spendflush/spendflush/internal/tracing"
)

func (p *program) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run an instance", Args: noArgs,
		Long: `Run an instance: take updates over HTTP, queue them in Redis and flush them to Postgres.

SIGTERM or Ctrl-C stops. For SPENDFLUSH_DRAIN_DELAY /readyz says 503 and every answer closes its connection, while updates
are still taken, so that balancers turn away. Then the listener closes, what is under way is answered, and what is in memory
is drained within SPENDFLUSH_SHUTDOWN_TIMEOUT. A second signal skips the delay; one while draining stops at once.

Exit status: 0 stopped with everything drained, 1 something could not be drained or the instance could not run, 2 wrong
usage or settings.`,
		Example: `  DATABASE_URL=postgres://localhost/spend REDIS_URL=redis://localhost spendflush serve
  USE_REDIS_TRANSACTION_BUFFER=false DATABASE_URL=postgres://localhost/spend spendflush serve`,
		RunE: func(c *cobra.Command, _ []string) error {
			ignoreSIGPIPE()
			set, err := load(p.environ, needDatabase|needQueue)
			if err != nil {
				return err
			}
			log := newLogger(set, p.stderr)
			return p.serve(c.Context(), set, log, nil)
		},
	}
}

// serve runs an instance until a signal or the end of ctx, which means the same as one. ready, if
// not nil, is called once the instance takes updates.
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
	pipeline  *spendflush.Pipeline
	overview  *overview.Live
	api       *httpapi.API
	server    *http.Server
	listener  net.Listener
	metrics   *metricsListener // nil: there is none
	pair      *keypair.Pair    // nil: the API is served without TLS
	readiness *readiness
	telemetry *tracing.Telemetry
}

func newInstance(ctx context.Context, set *settings, log *slog.Logger) (in *instance, err error) {
	var opened []func()
	defer func() {
		if err != nil {
			in = nil
			for _, undo := range opened {
				undo()
			}
		}
	}()
	pair, err := set.keyPair()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", set.Listen)
	if err != nil {
		return nil, fmt.Errorf("SPENDFLUSH_LISTEN: %w", err)
	}
	opened = append(opened, func() { listener.Close() })
	metrics, err := listenForMetrics(set.MetricsListen)
	if err != nil {
		return nil, err
	}
	opened = append(opened, metrics.close)
	ps, err := newParts(ctx, set, log, false)
	if err != nil {
		return nil, err
	}
	opened = append(opened, ps.close)
	if err := ps.openJournal(); err != nil {
		return nil, err
	}

	in = &instance{parts: ps, metrics: metrics, pair: pair, readiness: newReadiness(log)}
	registry := newRegistry(ps)
	registry.MustRegister(in.readiness.collector(), certificateCollector{pair})
	if err := in.startTelemetry(ctx, registry); err != nil {
		return nil, err
	}
	if in.pipeline, err = ps.pipeline(registry); err != nil {
		return nil, err
	}
	ps.running = in.pipeline
	in.readiness.watchBooks(in.pipeline)
	in.overview = overview.NewLive(ps.sources(), in.pipeline, overview.LiveOptions{
		Version: programVersion(), Logger: log, Deadlocks: func() int64 { return ps.storeStats().Deadlocks },
		NotReady: in.readiness.reason, Clocks: ps.clocks,
	})
	return in, in.serveAPI(registry, listener)
}

// ignoreSIGPIPE has the program go on to its end, its output lost, when the reader of its standard
// output or error has gone: by default the signal for that would end it with all that it holds.
// Were it ignored, the processes that are started would inherit that; so it is caught and dropped.
func ignoreSIGPIPE() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

func (in *instance) run(ctx context.Context, ready func(*instance)) error {
	// The first signal asks for a stop with everything drained, the second one ends that.
	first, stopFirst := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stopFirst()
	hard, cancelHard := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelHard()

	var work sync.WaitGroup
	defer work.Wait()
	failed := make(chan error, 4)
	if in.metrics != nil {
		// Until the end, so that a stop can be watched.
		defer in.metrics.close()
		work.Go(func() {
			if err := in.metrics.serve(in.log); err != nil {
				failed <- err
			}
		})
	}
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
	work.Go(func() { in.set.keys.Follow(hard, in.log) })
	work.Go(func() { in.pair.Follow(hard, in.log) })
	work.Go(func() {
		in.probe(first)
		if err := in.migrate(first); err != nil {
			if first.Err() == nil {
				failed <- fmt.Errorf("migrate: %w", err)
			}
			return
		}
		in.log.Info("ready", "listen", in.listener.Addr().String(), "url", in.url())
		if ready != nil {
			ready(in)
		}
		in.watchRights(first)
	})
	work.Go(func() { in.auditRegularly(first) })
	work.Go(func() { in.keepFigures(first) })
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
		return errors.Join(err, in.drain(second, cancelHard))
	}
	if err = in.turnAway(second, failed); second.Err() == nil {
		return errors.Join(err, in.drain(second, cancelHard))
	}
	// The second signal has only cut the delay short.
	third, stopThird := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer stopThird()
	return errors.Join(err, in.drain(third, cancelHard))
}

// turnAway tells balancers and clients to go elsewhere, and goes on taking updates, for the delay
// that is set. It ends early with ctx, or with a failure, which it returns.
func (in *instance) turnAway(ctx context.Context, failed <-chan error) error {
	in.api.Drain()
	delay := in.set.DrainDelay
	if delay == 0 {
		return nil
	}
	in.log.Info("stopping: /readyz says 503, updates are still taken; a second signal skips this", "delay", delay)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case err := <-failed:
		in.log.Error("stopping", "error", err)
		return err
	}
	return nil
}

// How long a stop waits for requests. Neither is a setting: there is no reason to change them.
const (
	// underWay is how long requests that had come before the listener closed may take until nothing
	// more is recorded.
	underWay = 5 * time.Second
	// answerGrace is how long is waited for answers once everything is drained.
	answerGrace = time.Second
)

// drain closes the listener, answers what is under way, and brings what is held out of the process,
// until the timeout or the end of ctx.
func (in *instance) drain(ctx context.Context, cancelHard context.CancelFunc) error {
	in.log.Info("stopping: draining what is in memory; another signal stops at once", "timeout", in.set.ShutdownTimeout)
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
	underWayCtx, cancelUnderWay := context.WithTimeout(ctx, min(underWay, in.set.ShutdownTimeout/4))
	in.api.AwaitAnswers(underWayCtx)
	cancelUnderWay()

	err := in.pipeline.Shutdown(ctx)
	// Callers that waited for an acknowledgement have it now. Connections on which nothing was ever
	// asked aren't waited for.
	stopWaiting := time.AfterFunc(answerGrace, cancelAnswers)
	defer stopWaiting.Stop()
	work.Wait()
	cancelHard()
	in.stopTelemetry(ctx)
	in.logStopped(err, time.Since(start))
	return err
}

func (in *instance) logStopped(err error, took time.Duration) {
	left, ok := errors.AsType[*spendflush.NotDrainedError](err)
	switch {
	case !ok:
		in.log.Info("stopped; everything is drained", "took", took)
	case left.Journaled == left.Updates:
		in.log.Warn("stopped with updates not drained: they are in the journal, and the next start brings them on",
			"updates", left.Updates, "amount", left.Amount, "why", left.Cause)
	default:
		in.log.Error("stopped with updates not drained: those that are not in the journal are lost",
			"updates", left.Updates, "amount", left.Amount,
			"journaled_updates", left.Journaled, "journaled_amount", left.JournaledAmount, "why", left.Cause)
	}
}

// ready says why updates shouldn't be sent here yet.
func (in *instance) ready(context.Context) error {
	if why := in.readiness.reason(); why != "" {
		return errors.New(why)
	}
	return nil
}

// denied says what Redis or Postgres refuses this instance, "" if nothing.
func (in *instance) denied() string {
	status := in.pipeline.Status()
	return status.Denied()
}

// serveAPI makes the server of the API, and the listener that bounds its connections and speaks
// TLS.
func (in *instance) serveAPI(registry *prometheus.Registry, listener net.Listener) error {
	proxies, err := in.set.trustedProxies()
	if err != nil {
		return err
	}
	clients, err := in.maxClients()
	if err != nil {
		return err
	}
	api, err := httpapi.New(httpapi.Config{
		Recorder:       in.pipeline,
		Reader:         in.reads,
		Overview:       in.overview,
		Keys:           in.set.keys,
		Hosts:          in.set.Hosts,
		BasePath:       in.set.BasePath,
		Registry:       registry,
		Logger:         in.log,
		AccessLog:      in.set.AccessLog,
		Tracer:         in.requestTracer(),
		Instance:       in.set.Instance,
		IDWindow:       in.set.IDWindow,
		Version:        programVersion(),
		Ready:          in.ready,
		Refuse:         in.readiness.refusal,
		Denied:         in.denied,
		Refused:        in.overview.Refused,
		MaxClients:     clients,
		TrustedProxies: proxies,
		MaxReports:     in.set.maxReports(),
	})
	if err != nil {
		return err
	}
	registry.MustRegister(api.Collector())
	in.api, in.server, in.listener = api, api.Server(in.set.Listen), api.Listen(listener)
	if in.pair != nil {
		in.listener = tls.NewListener(in.listener, in.pair.Config())
	}
	if in.metrics != nil {
		in.metrics.server, in.metrics.listener = api.MetricsServer(in.metrics.listener)
	}
	return nil
}

// url is where the API is served.
func (in *instance) url() string {
	scheme := "http"
	if in.pair != nil {
		scheme = "https"
	}
	return scheme + "://" + in.listener.Addr().String() + in.set.BasePath
}
