package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/internal/load"
)

// direct lets as many writers as there were instances write such traffic to tables of their own, a statement a row, and
// says what became of it. They have the machine for themselves.
func (d *demo) direct(ctx, early context.Context) error {
	traffic, err := load.New(load.Shape{Keys: keysPerClient * len(d.clients.all), Models: modelsPerKey, Skew: 1})
	if err != nil {
		return err
	}
	writers, err := load.OpenDirect(ctx, load.DirectConfig{DatabaseURL: d.postgres.URL(""), Writers: d.Instances, Buffer: 4})
	if err != nil {
		return err
	}
	// Its tables go with the server. To drop them may fail: the connection for it may be one of those that are ended below.
	defer func() { _ = writers.Close(context.WithoutCancel(ctx)) }()
	d.out.Print(fmt.Sprintf("\nThe same kind of traffic without spendflush: %d writers, each a transaction of row-by-row updates in the order of arrival, with three retries, for %s …",
		d.Instances, d.Direct))
	// What is not through when the time is over doesn't count, and isn't waited for: writers that block each other may take
	// as long again.
	run, cancel := context.WithTimeout(early, d.Direct)
	defer cancel()
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- writers.Run(run, traffic, 0, 0) }()
	stop := d.out.Clock("direct writers", d.Direct)
	for sleep(run, redrawEvery) == nil && len(done) == 0 {
	}
	stop()
	s, took := writers.Stats(), time.Since(start)
	if run.Err() == nil { // it has failed by itself
		return <-done
	}
	if err := d.endWriters(ctx, done); err != nil {
		return err
	}
	lost := fmt.Sprintf("%s updates of %s dollars", count(s.Lost), s.LostAmount)
	if s.Lost > 0 {
		lost = d.out.Bad(lost)
	}
	d.out.Print(fmt.Sprintf("%s updates written (%.0f a second), %s deadlocks, lost after three retries: %s.",
		count(s.Updates), float64(s.Updates)/took.Seconds(), d.out.Bad(count(s.Deadlocks)), lost))
	d.out.Print(fmt.Sprintf("spendflush, with its faults, and clients and %d instances on the same machine: %.0f a second, 0 deadlocks, nothing lost.",
		d.Instances, float64(d.clients.acknowledged.Load())/d.trafficTook.Seconds()))
	return nil
}

// endWriters ends the transactions that are still at work, again and again, for they may be tried anew.
func (d *demo) endWriters(ctx context.Context, done <-chan error) error {
	for {
		_, err := d.watch.conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'spendflush direct'")
		if err != nil {
			return err
		}
		select {
		case <-done: // that they were ended is no error
			return nil
		case <-time.After(lookEvery):
		}
	}
}
