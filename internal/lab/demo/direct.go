package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
)

// How the direct writers write. Both favour them: the more updates a transaction has, the more
// often it deadlocks, and with Postgres' own deadlock_timeout each deadlock would hold up some of
// them for a second.
const (
	directBuffer    = 4
	deadlockTimeout = 10 * time.Millisecond
)

// direct lets as many writers as there were instances write the traffic to tables of their own, a
// statement a row, and says what became of it. They have the machine for themselves.
func (d *demo) direct(ctx, early context.Context) error {
	traffic, err := load.New(shape(len(d.clients.all)))
	if err != nil {
		return err
	}
	writers, err := load.OpenDirect(ctx, load.DirectConfig{
		DatabaseURL: d.postgres.URL(""), Writers: d.Instances, Buffer: directBuffer, DeadlockTimeout: deadlockTimeout,
	})
	if err != nil {
		return err
	}
	// Its tables go with the server. To drop them may fail: the connection for it may be one of
	// those that are ended below.
	defer func() { _ = writers.Close(context.WithoutCancel(ctx)) }()
	d.out.Print(fmt.Sprintf("\nThe same traffic without spendflush, for %s: %d writers, each with transactions of %d updates, row by row in the\norder of arrival; one that deadlocks is tried again up to three times. In their favour Postgres looks for deadlocks after\n%s instead of 1s, and nothing is killed or emptied.",
		d.Direct, d.Instances, directBuffer, deadlockTimeout))
	// What is not through when the time is over doesn't count, and isn't waited for: writers that
	// block each other may take as long again.
	run, cancel := context.WithTimeout(early, d.Direct)
	defer cancel()
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- writers.Run(run, traffic, 0, 0) }()
	stop := d.out.Clock("direct writers", d.Direct)
	select {
	case <-run.Done():
		stop()
	case err := <-done:
		stop()
		if run.Err() == nil { // it has failed by itself
			return err
		}
		done <- err
	}
	s, took := writers.Stats(), time.Since(start)
	if err := d.endWriters(ctx, done); err != nil {
		return err
	}
	d.printDirect(&s, took)
	return nil
}

func (d *demo) printDirect(s *load.DirectStats, took time.Duration) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t\tupdates\tdollars\t\n")
	line := func(name string, updates int64, dollars spend.Amount) {
		fmt.Fprintf(w, "\t%-34s\t%s\t%s\t\n", name, count(updates), dollars)
	}
	all := s.Amount.Add(s.LostAmount)
	line("taken", s.Updates+s.Lost, all)
	line("written", s.Updates, s.Amount)
	line("lost", s.Lost, s.LostAmount)
	_ = w.Flush() // a strings.Builder takes everything
	d.out.Print("\n" + strings.TrimRight(text.String(), "\n") + "\n")
	lost := "Nothing was lost this time"
	if s.Lost > 0 {
		lost = d.out.Bad(fmt.Sprintf("%.0f %% of the money is lost", share(s.LostAmount, all)))
	}
	d.out.Print(fmt.Sprintf("%s, after %s deadlocks. %.0f updates a second were written.", lost, count(s.Deadlocks), float64(s.Updates)/took.Seconds()))
	d.out.Print(fmt.Sprintf("spendflush, with its faults, and with the clients on the same machine: %s lost, %s deadlocks, %.0f updates a second.",
		d.out.Good("nothing"), d.out.Good("0"), float64(d.clients.answers.updates.Load())/d.trafficTook.Seconds()))
}

// share returns how many hundredths of all a part is, for people.
func share(part, all spend.Amount) float64 {
	p, _ := strconv.ParseFloat(part.String(), 64) // amounts are numbers
	a, _ := strconv.ParseFloat(all.String(), 64)
	return 100 * p / max(a, 1e-12)
}

// endWriters ends the transactions that are still at work, again and again, for they may be tried
// anew.
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
