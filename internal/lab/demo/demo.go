// Package demo shows what spendflush is for: ten instances as processes of their own, mixed traffic
// over HTTP, and one fault after the other. In the end what the clients have sent is compared with
// the books, to the last digit.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// Config says what a demonstration does.
type Config struct {
	Program   string        // the spendflush binary
	Traffic   time.Duration // how long there is traffic
	Direct    time.Duration // how long the direct writers write; 0: they don't
	Instances int           // at least 2
	Listen    string        // address of the first instance, whose page is shown
	Settings  []string      // more variables for the instances: "NAME=value"
	Out       *terminal.Output
}

var (
	// ErrDiffer is returned when an update that was sent isn't in the books exactly once, or it
	// isn't known.
	ErrDiffer = errors.New("the books differ")
	// ErrRefused is returned when the program refuses the settings.
	ErrRefused = errors.New("the instances refuse their settings")
	// ErrStopped is returned when it was stopped before there was anything to compare.
	ErrStopped = errors.New("stopped before there was anything to compare")
)

const (
	fewestFaultSeconds = 1
	mostFaultSeconds   = 4
	startTimeout       = 2 * time.Minute
	drainTimeout       = time.Minute
	stopTimeout        = 30 * time.Second // of a server
)

// demo is one run.
type demo struct {
	Config
	out   *terminal.Output
	begun time.Time // of the traffic
	dir   string
	page  string // address

	postgres  *servers.Postgres
	redis     *redisView
	redisd    *servers.Redis
	instances []*instance
	clients   *clients
	faults    *faults
	watch     *watch

	trafficTook time.Duration
}

// Run runs a demonstration. When stop is closed, the traffic ends and is compared; what comes after
// is left out. When ctx ends, all ends at once. In any case nothing is left when Run returns: no
// process and no file. Errors: ErrDiffer, ErrRefused, ErrStopped, ctx's; a *servers.MissingError
// where Postgres or Redis isn't installed.
func Run(ctx context.Context, stop <-chan struct{}, c Config) (err error) {
	d := &demo{Config: c, out: c.Out, begun: time.Now()}
	defer func() { err = errors.Join(err, d.clean(ctx)) }()
	early, cancel := untilClosed(ctx, stop)
	defer cancel()
	if err := d.start(early); err != nil {
		if early.Err() != nil && ctx.Err() == nil {
			return ErrStopped
		}
		return err
	}
	if err := d.work(ctx, early); err != nil {
		return err
	}
	if err := d.drain(ctx); err != nil {
		return err
	}
	if err := d.compare(ctx); err != nil || early.Err() != nil || d.Direct == 0 {
		return err
	}
	return d.direct(ctx, early)
}

// untilClosed returns a context that ends with ctx or when stop is closed.
func untilClosed(ctx context.Context, stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// start starts the servers and all instances.
func (d *demo) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if d.dir, err = os.MkdirTemp("", "spendflush-demo-"); err != nil {
		return err
	}
	if err := os.Chmod(d.dir, 0o755); err != nil { // Postgres may run as another account
		return err
	}
	d.out.Print("starting a Postgres and a Redis in " + d.dir + " …")
	if d.postgres, err = servers.StartPostgres(ctx, servers.PostgresConfig{Dir: filepath.Join(d.dir, "postgres")}); err != nil {
		return err
	}
	if d.redisd, err = servers.StartRedis(ctx, servers.RedisConfig{Dir: filepath.Join(d.dir, "redis")}); err != nil {
		return err
	}
	if d.redis, err = viewRedis(d.redisd.URL()); err != nil {
		return err
	}
	d.out.Print(fmt.Sprintf("starting %d instances …", d.Instances))
	environ := append(inherited(), d.Settings...)
	environ = append(environ, "DATABASE_URL="+d.postgres.URL(""), "REDIS_URL="+d.redisd.URL(), "SPENDFLUSH_LOG_FORMAT=json",
		"SPENDFLUSH_LOG_LEVEL=info", "SPENDFLUSH_MAX_CONNECTIONS=4")
	for i := range d.Instances {
		in := &instance{number: i + 1, program: d.Program, environ: environ, listen: "127.0.0.1:0"}
		if i == 0 {
			in.listen = d.Listen
		}
		if err := in.start(); err != nil {
			return err
		}
		d.instances = append(d.instances, in)
	}
	for _, in := range d.instances {
		if err := in.awaitReady(ctx); err != nil {
			return err
		}
	}
	return d.checkBooks(ctx)
}

// checkBooks finds out which books the instances have made, for what is theirs in Redis lies under
// their id.
func (d *demo) checkBooks(ctx context.Context) error {
	store, err := pgstore.Open(ctx, d.postgres.URL(""), pgstore.Options{MaxConns: 1})
	if err != nil {
		return err
	}
	defer store.Close()
	id, err := store.Books(ctx)
	if err == nil {
		d.redis.of(id)
	}
	return err
}

// inherited are the variables of this process that say where things are.
func inherited() (environ []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			environ = append(environ, name+"="+value)
		}
	}
	return environ
}

// work lets clients and faults work until the time is over, early ends or something happens that
// should not.
func (d *demo) work(ctx, early context.Context) error {
	var err error
	if d.clients, err = newClients(d.instances); err != nil {
		return err
	}
	d.faults = &faults{d: d}
	if d.watch, err = newWatch(ctx, d); err != nil {
		return err
	}
	d.begun = time.Now()
	d.page = d.instances[0].address() + "/"
	d.out.Print("\nready; the page of the first instance is " + d.out.Strong(d.page) + "\n")
	d.event("%d clients send updates to %d instances", len(d.clients.all), len(d.instances))

	trafficCtx, endFaults := context.WithTimeout(early, d.Traffic)
	defer endFaults()
	watchCtx, endWatch := context.WithCancel(ctx)
	defer endWatch()
	var watching, breaking sync.WaitGroup
	watching.Go(func() { d.watch.run(watchCtx) })
	var failed error
	breaking.Go(func() {
		failed = d.faults.run(trafficCtx, ctx)
		if failed != nil {
			endFaults()
		}
	})
	d.clients.start(ctx)
	select {
	case <-trafficCtx.Done():
	case err = <-d.clients.failed:
		endFaults()
	}
	breaking.Wait() // before the clients: they wait for instances that are there
	d.event("no more faults and no more traffic: everything is drained")
	err = errors.Join(err, d.stopClients(ctx))
	d.trafficTook = time.Since(d.begun)
	err = errors.Join(err, failed, d.awaitEmptyQueue(ctx))
	endWatch()
	watching.Wait()
	return errors.Join(err, ctx.Err())
}

// stopClients ends the traffic, and waits until all that was sent is committed. The error is of
// what should not happen.
func (d *demo) stopClients(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	d.clients.stop(ctx)
	select {
	case err := <-d.clients.failed:
		return err
	default:
		return nil
	}
}

// awaitEmptyQueue waits until Postgres has what the queue had.
func (d *demo) awaitEmptyQueue(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, drainTimeout, fmt.Errorf("the queue is not empty %s after the end of the traffic", drainTimeout))
	defer cancel()
	err := until(ctx, func() (bool, error) {
		stats, err := d.redis.queue.Stats(ctx, 0)
		return stats.Batches == 0, err
	})
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// drain stops all instances, each of which brings what it holds to Postgres.
func (d *demo) drain(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, drainTimeout, fmt.Errorf("an instance has not drained in %s", drainTimeout))
	defer cancel()
	for _, in := range d.instances {
		err = errors.Join(err, in.askToStop())
	}
	for _, in := range d.instances {
		err = errors.Join(err, in.awaitStop(ctx))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// clean ends all that was started and removes what it has left. After the end of ctx it doesn't
// wait for clean ends.
func (d *demo) clean(ctx context.Context) (err error) {
	d.out.Leave()
	if d.clients != nil {
		select {
		case <-d.clients.quit:
		default: // it was broken off
			ended, end := context.WithCancel(ctx)
			end()
			d.clients.stop(ended)
		}
	}
	for _, in := range d.instances {
		if in.process != nil {
			err = errors.Join(err, in.process.Kill())
		}
	}
	if d.watch != nil {
		d.watch.close()
	}
	if d.redis != nil {
		d.redis.close()
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	stop := func(stop func(context.Context) error, kill func() error) {
		if ctx.Err() != nil {
			err = errors.Join(err, kill())
			return
		}
		err = errors.Join(err, stop(ctx))
	}
	if d.redisd != nil {
		stop(d.redisd.Stop, d.redisd.Kill)
	}
	if d.postgres != nil {
		stop(d.postgres.Stop, d.postgres.Kill)
	}
	if d.dir != "" {
		err = errors.Join(err, os.RemoveAll(d.dir))
	}
	return err
}

// faultEvery is the pause between two faults.
func (d *demo) faultEvery() time.Duration {
	return min(max(d.Traffic/12, fewestFaultSeconds*time.Second), mostFaultSeconds*time.Second)
}

// event says what has happened, and when.
func (d *demo) event(format string, args ...any) {
	d.out.Print(d.out.Faint(fmt.Sprintf("%7s  ", tenths(time.Since(d.begun)))) + fmt.Sprintf(format, args...))
}
