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
	acknowledged, counted, uncounted tally // the last two of requests without an answer
	want, booked                     spend.Counters
	entities, days                   int      // rows compared
	differences                      int      // rows that differ
	shown                            []string // some of them
}

// tally counts requests and what is in them.
type tally struct {
	requests, updates int64
	spend             spend.Amount
}

func (t *tally) add(r *request) {
	t.requests++
	t.updates += int64(len(r.updates))
	for i := range r.updates {
		t.spend = t.spend.Add(r.updates[i].Spend)
	}
}

// settle compares ledgers with what is in the books. What got no answer is looked up first: it was counted or not, and
// each of the rows must have exactly the one or the other.
func settle(ledgers []*ledger, got *book) *verdict {
	v := &verdict{}
	want := newBook()
	for _, l := range ledgers {
		v.acknowledged.requests += l.requests
		v.acknowledged.updates += l.updates
		for k, sum := range l.acknowledged {
			want.add(&sum.series, k.date, &sum.counters)
			v.acknowledged.spend = v.acknowledged.spend.Add(sum.counters.Spend)
		}
	}
	for _, l := range ledgers {
		for i := range l.unanswered {
			r := &l.unanswered[i]
			endUser := spend.Entity{Type: spend.EndUser, ID: r.endUser}
			with := want.entities[endUser]
			for j := range r.updates {
				c := load.Counters(&r.updates[j])
				with.Add(&c)
			}
			if got.entities[endUser] != with {
				v.uncounted.add(r) // if it isn't exactly that, the row differs
				continue
			}
			v.counted.add(r)
			for j := range r.updates {
				u := &r.updates[j]
				c := load.Counters(u)
				want.add(&u.Series, u.Time.Format(time.DateOnly), &c)
			}
		}
	}
	v.want, v.booked = want.all, got.all
	v.entities, v.days = len(want.entities), len(want.days)
	compareRows(v, want.entities, got.entities)
	compareRows(v, want.days, got.days)
	return v
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

// compare compares what the clients know with the books and prints it. It returns ErrDiffer if they differ.
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
	d.out.Leave()
	d.printSums(v)
	equal := v.differences == 0 && v.want == v.booked && v.want.APIRequests() == b.marked && b.audit.OK &&
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
	fmt.Fprintf(w, "\t\trequests\tupdates\tdollars\t\n")
	line := func(name string, requests string, updates int64, spend spend.Amount) {
		fmt.Fprintf(w, "\t%-34s\t%s\t%s\t%s\t\n", name, requests, count(updates), spend)
	}
	line("acknowledged", count(v.acknowledged.requests), v.acknowledged.updates, v.acknowledged.spend)
	line("without an answer, yet counted", count(v.counted.requests), v.counted.updates, v.counted.spend)
	line("so the books have to say", "", v.want.APIRequests(), v.want.Spend)
	line("the books say", "", v.booked.APIRequests(), v.booked.Spend)
	line("difference", "", v.booked.APIRequests()-v.want.APIRequests(), v.booked.Spend.Sub(v.want.Spend))
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
	out.Print("Every acknowledged update is counted once.")
	if n := v.counted.requests + v.uncounted.requests; n > 0 {
		out.Print(fmt.Sprintf("Of %s requests with %s updates that got no answer, as their instance was killed, %s (%s updates) were counted, each once, and %s were not.",
			count(n), count(v.counted.updates+v.uncounted.updates), count(v.counted.requests), count(v.counted.updates), count(v.uncounted.requests)))
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
