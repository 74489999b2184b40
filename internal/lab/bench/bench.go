// Package bench measures spendflush against other ways of booking the same traffic, and its parts
// by themselves. What is compared is measured in turns within one run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"
)

// Options say what to measure. The zero value of a field stands for its default.
type Options struct {
	// DatabaseURL and RedisURL are a Postgres and Redis that hold nothing. Both empty: a Postgres
	// and a Redis of its own are started, and are gone afterwards.
	DatabaseURL, RedisURL string

	// Parts are the names of what to measure, out of Parts. Default: all.
	Parts []string

	// Duration is how long one measurement takes, from 10 ms. Default: 3 s.
	Duration time.Duration

	// Rounds is how often each is made, from 1. Default: 3.
	Rounds int

	// IDs is how many ids are in the window where the part ids measures with many. Default:
	// 3,000,000, and 20,000 with Quick.
	IDs int

	// Days is how many days before today the rollups have where the part years reads them. Default: 40,
	// and 3 with Quick.
	Days int

	// Quick measures with fewer keys, so that everything is run and little is learnt.
	Quick bool

	Version, Command string // for the report

	// Progress is told how many of how many measurements are made, and which one is next. nil:
	// nobody is.
	Progress func(done, total int, next string)
}

// ErrWrongBooks is wrapped when what was booked isn't what was sent.
var ErrWrongBooks = errors.New("the books are wrong")

// part is one of the things to measure.
type part struct {
	name, about string
	steps       func(*run) int // measurements, for the progress
	run         func(context.Context, *run) error
}

var parts = []part{
	{"ways", "the same traffic booked in four ways, and the bare UPSERT of its rows", waysSteps, measureWays},
	{"flush", "a flush against the bare UPSERT of its rows, and without its claims", flushSteps, measureFlush},
	{"record", "Record and a handle, by themselves and while batches are sealed; memory of a live key", recordSteps, measureRecord},
	{"codec", "batches encoded and decoded", codecSteps, measureCodec},
	{"latency", "a million updates a second: from accepted to committed, and Postgres's log", latencySteps, measureLatency},
	{"http", "updates over HTTP against a handler that only reads the body", httpSteps, measureHTTP},
	{"ids", "updates that count once by their ids, against a bare INSERT of these, and other ways to count once", idsSteps, measureIDs},
	{"locks", "the Redis lock against the Postgres advisory lock", locksSteps, measureLocks},
	{"shards", "1, 2 and 4 shards, and whether one waits for another's rows", shardsSteps, measureShards},
	{"instances", "the same load on 1, 10 and 100 instances", instancesSteps, measureInstances},
	{"keys", "1,000 to 1,000,000 keys", keysSteps, measureKeys},
	{"worst", "every update a new key", worstSteps, measureWorst},
	{"years", "reports over rollups of many days, with figures and without", yearsSteps, measureYears},
}

// Parts returns the names of what can be measured, in the order in which that is done, and what
// each is about.
func Parts() (names, abouts []string) {
	for _, p := range parts {
		names, abouts = append(names, p.name), append(abouts, p.about)
	}
	return names, abouts
}

// run is one call of Run.
type run struct {
	Options
	env    *env
	report *Report

	done, total int
}

// Run measures, and blocks until all is measured and cleaned up. Errors: *NotEmptyError,
// ErrWrongBooks,
// *servers.MissingError, those of ctx and of the databases.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	chosen := o.chosen()
	r := &run{Options: o, report: &Report{Version: o.Version, Command: o.Command, Begun: time.Now()}}
	for _, p := range chosen {
		r.total += p.steps(r)
	}
	r.tell("the servers start")
	if r.env, err = openEnv(ctx, o); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.env.close(ctx)) }()
	if r.report.Machine, err = r.env.machine(ctx); err != nil {
		return nil, err
	}
	for _, p := range chosen {
		if err := p.run(ctx, r); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	r.report.Seconds = time.Since(r.report.Begun).Seconds()
	return r.report, nil
}

// Validate sets the defaults and checks the rest.
func (o *Options) Validate() error {
	if o.Duration == 0 {
		o.Duration = 3 * time.Second
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.IDs == 0 {
		o.IDs = 3_000_000
		if o.Quick {
			o.IDs = 20_000
		}
	}
	if o.IDs < 1 || o.IDs > mostIDs {
		return fmt.Errorf("%d ids: allowed are 1 to %d", o.IDs, mostIDs)
	}
	if o.Days == 0 {
		o.Days = 40
		if o.Quick {
			o.Days = 3
		}
	}
	if o.Days < 1 || o.Days > 4000 {
		return fmt.Errorf("%d days: allowed are 1 to 4000", o.Days)
	}
	if o.Duration < 10*time.Millisecond || o.Duration > time.Minute || o.Rounds < 1 || o.Rounds > 100 {
		return fmt.Errorf("%g seconds, %d rounds: allowed are 0.01 to 60, and 1 to 100", o.Duration.Seconds(), o.Rounds)
	}
	if (o.DatabaseURL == "") != (o.RedisURL == "") {
		return errors.New("a Postgres and a Redis are needed, or neither: then both are started")
	}
	names, _ := Parts()
	for _, name := range o.Parts {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no part %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// chosen returns the parts to measure, in their order.
func (o *Options) chosen() (chosen []part) {
	for _, p := range parts {
		if len(o.Parts) == 0 || slices.Contains(o.Parts, p.name) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// tell says what is measured next, without counting it.
func (r *run) tell(next string) {
	if r.Progress != nil {
		r.Progress(r.done, r.total, next)
	}
}

// variant is one of the things compared: run makes one measurement, and returns numbers by name.
type variant struct {
	name string
	run  func(context.Context) (map[string]float64, error)
}

// measured has the numbers of a variant by name, a sample each round.
type measured map[string][]float64

// compare runs the variants in turns, beginning with another one in every round, so that none is
// always first.
func (r *run) compare(ctx context.Context, rounds int, variants []variant) (map[string]measured, error) {
	all := map[string]measured{}
	for _, v := range variants {
		all[v.name] = measured{}
	}
	for round := range rounds {
		for i := range variants {
			v := variants[(i+round)%len(variants)]
			r.tell(v.name)
			runtime.GC() // what the one before has left isn't its own
			var numbers map[string]float64
			var err error
			// What it starts has its name in a profile.
			pprof.Do(ctx, pprof.Labels("measured", v.name), func(ctx context.Context) { numbers, err = v.run(ctx) })
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			for name, x := range numbers {
				all[v.name][name] = append(all[v.name][name], x)
			}
			r.done++
		}
	}
	return all, nil
}

// quantile returns the value below which that part of the sorted ones lies.
func quantile[T any](sorted []T, part float64) T {
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))]
}

// sized returns the number of keys or the like that this run is to have.
func (r *run) sized(full, quick int) int {
	if r.Quick {
		return quick
	}
	return full
}

func cpuName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
