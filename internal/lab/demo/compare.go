package demo

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// verdict is what comes out when the clients' ledgers are compared with the books.
type verdict struct {
	sent, booked   spend.Counters
	updates        int64    // sent
	entities, days int      // rows compared
	differences    int      // rows that differ
	shown          []string // some of them

	// As the clients were told: updates that are committed, those of them that had been before, and
	// how many updates aren't known to be.
	committed, repeats, unknown int64
	unanswered, refused         int64 // requests that were sent again
}

// settle compares ledgers with what is in the books: each row must have exactly what was sent.
func settle(ledgers []*ledger, got *book) *verdict {
	v := &verdict{}
	want := newBook()
	for _, l := range ledgers {
		v.updates += l.updates
		for k, sum := range l.sums {
			want.add(&sum.series, k.date, &sum.counters)
		}
	}
	v.sent, v.booked = want.all, got.all
	v.entities, v.days = len(want.entities), len(want.days)
	compareRows(v, want.entities, got.entities)
	compareRows(v, want.days, got.days)
	return v
}

// exact says whether each update that was sent is in the books once, and the clients know it of
// each.
func (v *verdict) exact() bool {
	return v.differences == 0 && v.sent == v.booked && v.sent.APIRequests() == v.updates &&
		v.unknown == 0 && v.committed == v.updates
}

const mostShown = 5

func compareRows[K comparable](v *verdict, want, got map[K]spend.Counters) {
	differs := func(k K, w, g any) {
		if v.differences++; len(v.shown) < mostShown {
			v.shown = append(v.shown, fmt.Sprintf("%+v: %+v in the books instead of %+v", k, g, w))
		}
	}
	for k, w := range want {
		if g, there := got[k]; !there {
			differs(k, w, "nothing")
		} else if g != w {
			differs(k, w, g)
		}
	}
	for k, g := range got {
		if _, there := want[k]; !there {
			differs(k, "nothing", g)
		}
	}
}

// books are all that is looked at in Postgres after the end.
type books struct {
	*book
	marked    int64 // updates, as the producers' marks count them
	deadlocks int64
	audit     pgstore.AuditReport
}

func (d *demo) readBooks(ctx context.Context) (*books, error) {
	b := &books{book: newBook()}
	conn, err := pgx.Connect(ctx, d.postgres.URL(""))
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var c spend.Counters
	counters, columns := load.Into(&c), pgstore.Columns("%")

	var name string
	var e spend.Entity
	rows, _ := conn.Query(ctx, "SELECT entity_type, entity_id, team_id, "+columns+" FROM spendflush.spend") // ForEachRow has the error
	_, err = pgx.ForEachRow(rows, append([]any{&name, &e.ID, &e.TeamID}, counters...), func() (err error) {
		if e.Type, err = spend.ParseEntityType(name); err != nil {
			return err
		}
		b.entities[e] = c
		if e.Type == spend.APIKey { // every update has one
			b.all.Add(&c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the totals: %w", err)
	}
	var day time.Time
	var k daily
	rows, _ = conn.Query(ctx, `SELECT date, entity_type, entity_id, team_id, api_key, model, model_group, custom_llm_provider,
		mcp_namespaced_tool_name, endpoint, `+columns+" FROM spendflush.daily_spend")
	fields := []any{&day, &name, &k.ID, &k.TeamID, &k.apiKey, &k.model, &k.group, &k.provider, &k.tool, &k.endpoint}
	_, err = pgx.ForEachRow(rows, append(fields, counters...), func() (err error) {
		k.date = day.Format(time.DateOnly)
		k.Type, err = spend.ParseEntityType(name)
		b.days[k] = c
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the days: %w", err)
	}
	err = conn.QueryRow(ctx, `SELECT coalesce(sum(updates), 0)::bigint, (SELECT deadlocks FROM pg_stat_database
		WHERE datname = current_database()) FROM spendflush.producers`).Scan(&b.marked, &b.deadlocks)
	if err != nil {
		return nil, fmt.Errorf("read the marks: %w", err)
	}
	store, err := pgstore.Open(ctx, d.postgres.URL(""), pgstore.Options{})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	b.audit, err = store.Audit(ctx)
	return b, err
}

// compare compares what the clients know with the books and prints it. It returns ErrDiffer if they
// differ.
func (d *demo) compare(ctx context.Context) error {
	b, err := d.readBooks(ctx)
	if err != nil {
		return err
	}
	ledgers := make([]*ledger, len(d.clients.all))
	for i, c := range d.clients.all {
		ledgers[i] = c.ledger
	}
	v := settle(ledgers, b.book)
	a := d.clients.answers
	v.committed, v.repeats, v.unknown = a.updates.Load(), a.repeats.Load(), d.clients.unknown
	v.unanswered, v.refused = a.unanswered.Load(), a.refused.Load()
	d.out.Leave()
	d.printSums(v)
	equal := v.exact() && v.updates == b.marked && b.audit.OK &&
		b.audit.Quarantined == 0 && b.audit.LostBatches == 0 && b.deadlocks == 0
	d.printVerdict(v, b, equal)
	if !equal {
		return ErrDiffer
	}
	return nil
}

func (d *demo) printSums(v *verdict) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t\tupdates\tdollars\t\n")
	line := func(name string, updates int64, dollars string) {
		fmt.Fprintf(w, "\t%-34s\t%s\t%s\t\n", name, count(updates), dollars)
	}
	line("sent", v.updates, v.sent.Spend.String())
	line("answered as committed", v.committed, "")
	line("of unknown fate", v.unknown, "")
	line("the books say", v.booked.APIRequests(), v.booked.Spend.String())
	line("difference of books and sent", v.booked.APIRequests()-v.updates, v.booked.Spend.Sub(v.sent.Spend).String())
	_ = w.Flush() // a strings.Builder takes everything
	d.out.Print("\n" + strings.TrimRight(text.String(), "\n") + "\n")
}

func (d *demo) printVerdict(v *verdict, b *books, equal bool) {
	out, f := d.out, d.faults
	if equal {
		out.Print(out.Good("Equal to the last digit") + fmt.Sprintf(": %s totals and %s daily rows, seven columns each. Deadlocks: 0.",
			count(int64(v.entities)), count(int64(v.days))))
	} else {
		out.Print(out.Bad("THE BOOKS DIFFER") + fmt.Sprintf(": in %d of %d rows; the producers' marks count %d updates; deadlocks: %d; in quarantine: %d; lost batches: %d.",
			v.differences, v.entities+v.days, b.marked, b.deadlocks, b.audit.Quarantined, b.audit.LostBatches))
		for _, line := range v.shown {
			out.Print("  " + line)
		}
	}
	for _, check := range b.audit.Checks {
		if !check.OK {
			out.Print("  " + out.Bad("audit failed") + ": " + check.Name + ": " + check.Detail)
		}
	}
	out.Print(fmt.Sprintf("Meanwhile the lock holder was killed %s and frozen %s, and Redis was emptied %s.",
		times(f.kills), times(f.freezes), times(f.flushes)))
	if !equal {
		return
	}
	out.Print("Every update sent is in the books exactly once, and of none it is unknown.")
	if v.unanswered+v.refused > 0 {
		out.Print(fmt.Sprintf("%s requests got no answer and %s weren't taken, as their instance was killed, frozen or not there. Each was sent again, to\nanother instance. %s updates turned out to be in the books already, by their ids, and weren't counted again.",
			count(v.unanswered), count(v.refused), count(v.repeats)))
	}
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
