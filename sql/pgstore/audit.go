package pgstore

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/spend"
)

// AuditReport says whether the books add up, as of one snapshot.
type AuditReport struct {
	OK          bool         `json:"ok"`           // no check failed
	AsOf        time.Time    `json:"as_of"`        // when the snapshot was taken, by Postgres's clock
	Checks      []AuditCheck `json:"checks"`       // all that were made
	Quarantined int64        `json:"quarantined"`  // open entries of the quarantine
	LostBatches int64        `json:"lost_batches"` // skipped as lost and not found since; nothing is known of their rows

	DaysUnread int `json:"days_unread"` // whose figures stood for their rows: 0 unless AuditChanges made it

	// What producers sealed and isn't in the books because batches are lost.
	LostUpdates int64        `json:"lost_updates"`
	LostAmount  spend.Amount `json:"lost_amount"`

	SetAside   AuditSetAside   `json:"set_aside"`  // what producers sealed and isn't in the books because it is in quarantine
	Quarantine AuditQuarantine `json:"quarantine"` // what the open entries count
}

// AuditSetAside are whole batches that were skipped, and whose bytes are in quarantine. They are
// not in the books, and not among the lost ones.
type AuditSetAside struct {
	Batches int64        `json:"batches"`
	Dropped int64        `json:"dropped"` // those of Batches that were given up
	Updates int64        `json:"updates"`
	Amount  spend.Amount `json:"amount"`
}

// AuditQuarantine is what is open in quarantine. Sums are decimal texts.
//
// What the rows count was claimed and is missing in the rows of the books. What the batches count
// may be in the books all the same: a producer sends a batch again whose bytes were damaged.
type AuditQuarantine struct {
	Rows    []AuditRows  `json:"rows"` // by book: a request counts in several
	Batches AuditBatches `json:"batches"`

	// Conflicts are facts that were taken out of batches, because the books have another content
	// under their ids.
	Conflicts AuditBatches `json:"conflicts"`
}

// AuditRows are the open rows of one book.
type AuditRows struct {
	Book     string `json:"book"` // rollup or an entity type
	Entries  int64  `json:"entries"`
	Spend    string `json:"spend"`
	Requests string `json:"api_requests"`
}

// AuditBatches are the open batches.
type AuditBatches struct {
	Entries int64  `json:"entries"`
	Unknown int64  `json:"unknown"` // those whose header can't be read; they are in no sum
	Spend   string `json:"spend"`
	Updates string `json:"updates"`
}

// AuditCheck is one comparison of two books. Every check is made in every audit.
type AuditCheck struct {
	Name     string            `json:"name"`
	OK       bool              `json:"ok"`
	Detail   string            `json:"detail"`             // what was compared, or what differs
	Entities []AuditDifference `json:"entities,omitempty"` // at most 20
	Days     []string          `json:"days,omitempty"`     // dates (UTC), at most 20
}

// AuditDifference is an entity whose total isn't the sum of its rollups. The sums are decimal
// texts, "none" where there is no such row. Rows that are set aside in quarantine are in them, on
// the side that they are missing from.
type AuditDifference struct {
	EntityType     string `json:"entity_type"`
	EntityID       string `json:"entity_id"`
	TeamID         string `json:"team_id,omitempty"`
	TotalSpend     string `json:"total_spend"`
	RollupSpend    string `json:"rollup_spend"`
	TotalRequests  string `json:"total_requests"`
	RollupRequests string `json:"rollup_requests"`
}

// maxDifferences bounds what a check names: entities, days, keys.
const maxDifferences = 20

// The names of the checks, but for those of the books.
const (
	checkSealed       = "sealed = booked + lost + set aside"
	checkClaims       = "producers"
	checkConflicts    = "conflicts"
	checkDictionaries = "dictionaries"
	checkEntities     = "each total = its rollups"
	checkDays         = "each day = its flushes"
	checkKeys         = "each key = its names"
	checkFigures      = "figures = their rows"
)

// Audit compares the books with each other, every counter exactly:
//
//   - what each producer sealed up to its mark with what is booked of it, what was taken out as repeats or conflicts, what is lost, and
//     what is in quarantine,
//   - what the claims add up to with the control sums, shard by shard, and what was taken out with the sums of that,
//   - what was taken out as conflicts with what of it is in quarantine,
//   - the control sum of each book (the rollups, the totals of each entity type) with its rows and those of them that
//     are set aside in quarantine,
//   - the total of each entity with its rollups, again with what is set aside,
//   - the rollup rows of each day with the fingerprint of what flushes added to them: it shows what was moved between
//     hours, series or days with all sums unchanged,
//   - the figures that reports read with the rows of their day,
//   - the dictionaries with the rows that name their entries, and each key with the names that it is the hash of.
//
// It can't see what was changed in all of these alike, and no batch that was made up before it was
// booked.
//
// It reads everything, in a time that grows with the rollups, while flushes go on. Meanwhile it
// holds a snapshot, but for the keys, which are read after it: VACUUM can't clean up what is older,
// and CREATE INDEX CONCURRENTLY waits. An error means that the books couldn't be read; that they
// don't add up is in the report. The result is kept for Summary, where the database lets it: a
// standby, and a role that may only read, can be audited too.
func (s *Store) Audit(ctx context.Context) (AuditReport, error) {
	var report AuditReport
	return s.audit(ctx, &audit{store: s, report: &report})
}

// AuditChanges is Audit, but for the rows of days whose figures hold: these were compared with what
// flushes had added when the figures were made, and no flush has added to them since. Their figures
// stand for them. It takes a time that grows with what has changed, and with the figures. What was
// changed by hand in the rows of such a day it can't see; Audit does.
func (s *Store) AuditChanges(ctx context.Context) (AuditReport, error) {
	var report AuditReport
	return s.audit(ctx, &audit{store: s, report: &report, changes: true})
}

func (s *Store) audit(ctx context.Context, a *audit) (AuditReport, error) {
	start, report := time.Now(), a.report
	err := s.readSnapshot(ctx, func(tx querier) error {
		for _, step := range []func(context.Context, querier) error{
			a.divide, a.sealed, a.quarantine, a.claims, a.books, a.dictionary, a.setAside, a.entities, a.days, a.figures,
		} {
			if err := step(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = a.keys(ctx)
	}
	if err != nil {
		return AuditReport{}, fmt.Errorf("audit: %w", err)
	}

	report.OK = true
	for _, c := range report.Checks {
		report.OK = report.OK && c.OK
	}
	_ = s.noteAudit(ctx, *report, time.Since(start))
	return *report, nil
}

type audit struct {
	store  *Store
	report *AuditReport
	aside  aside

	changes bool        // only what has changed is read
	rows    []time.Time // days whose rollup rows are read, nil: all
	held    []time.Time // days whose figures stand for them
}

// divide finds out which days are read as rows, and which by their figures.
func (a *audit) divide(ctx context.Context, tx querier) error {
	a.held = []time.Time{}
	if !a.changes {
		return nil
	}
	if err := tx.QueryRow(ctx, a.store.statement("audit_divide")).Scan(&a.rows, &a.held); err != nil {
		return err
	}
	a.report.DaysUnread = len(a.held)
	return nil
}

func (a *audit) add(name string, ok bool, format string, args ...any) {
	a.report.Checks = append(a.report.Checks, AuditCheck{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
}

func (a *audit) sealed(ctx context.Context, tx querier) error {
	r := a.report
	var odd, cloned int64
	var first string
	var lost, aside anyAmount
	err := tx.QueryRow(ctx, a.store.statement("audit_producers"), spend.MaxSpend.String()).Scan(
		&r.AsOf, &r.LostBatches, &r.LostUpdates, &lost, &r.SetAside.Batches, &r.SetAside.Dropped, &r.SetAside.Updates, &aside,
		&odd, &first, &r.Quarantined, &cloned)
	if err != nil {
		return err
	}
	r.LostAmount, r.SetAside.Amount = spend.Amount(lost), spend.Amount(aside)
	detail := fmt.Sprintf("lost: %d updates of %s dollars; set aside: %d updates of %s dollars",
		r.LostUpdates, r.LostAmount, r.SetAside.Updates, r.SetAside.Amount)
	if odd > 0 {
		detail = fmt.Sprintf("%d producers sealed other sums than are booked, lost and set aside, the first is %s; %s", odd, first, detail)
	}
	if cloned > 0 {
		detail += fmt.Sprintf("; %d producers were cloned or put back, and passed over gaps: what is booked behind a gap may be of either process", cloned)
	}
	a.add(checkSealed, odd == 0, "%s", detail)
	return nil
}

func (a *audit) quarantine(ctx context.Context, tx querier) error {
	rows, err := tx.Query(ctx, a.store.statement("audit_quarantine"))
	if err != nil {
		return err
	}
	q := &a.report.Quarantine
	q.Rows, q.Batches, q.Conflicts = []AuditRows{}, AuditBatches{Spend: "0", Updates: "0"}, AuditBatches{Spend: "0", Updates: "0"}
	var kind, book, spend, requests string
	var entries, unknown int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &book, &entries, &unknown, &spend, &requests}, func() error {
		switch kind {
		case "batch":
			q.Batches = AuditBatches{Entries: entries, Unknown: unknown, Spend: spend, Updates: requests}
		case "conflict":
			q.Conflicts = AuditBatches{Entries: entries, Spend: spend, Updates: requests}
		default:
			q.Rows = append(q.Rows, AuditRows{Book: book, Entries: entries, Spend: spend, Requests: requests})
		}
		return nil
	})
	return err
}

// claims compares amounts and numbers of requests, which is what claims have.
func (a *audit) claims(ctx context.Context, tx querier) error {
	var updates, amount, odd, differences, repeated, repeats string
	err := tx.QueryRow(ctx, a.store.statement("audit_claims")).Scan(&updates, &amount, &odd, &differences, &repeated, &repeats)
	if err != nil {
		return err
	}
	even := "claims = control sums: " + amount + " dollars in " + updates + " updates"
	if repeats != "0" {
		even += "; taken out as repeats: " + repeated + " dollars in " + repeats + " updates"
	}
	a.add(checkClaims, odd == "0", "%s", cmp.Or(differences, even))
	return nil
}

// sums are the counters of a book, as texts because sums over a whole book may be larger than any
// row.
type sums [1 + spend.Counts]string

func (a *audit) books(ctx context.Context, tx querier) error {
	rows, err := tx.Query(ctx, a.store.statement("audit_books"), a.rows, a.held)
	if err != nil {
		return err
	}
	books := map[string]sums{} // by place and book
	var place, book string
	var s sums
	into := []any{&place, &book}
	for i := range s {
		into = append(into, &s[i])
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		books[place+" "+book] = s
		return nil
	})
	if err != nil {
		return err
	}

	names := []string{rollupBook}
	for _, t := range spend.EntityTypes() {
		names = append(names, t.String())
	}
	for _, name := range names {
		want := books["control "+name]
		difference := compare(want, books["rows "+name], books["quarantine "+name])
		label := "totals of " + name
		if name == rollupBook {
			label = "rollups"
		}
		a.add(label, difference == "", "%s", cmp.Or(difference, "control sums = rows: "+cmp.Or(want[0], "0")+" dollars"))
	}
	want := books["control "+bookConflict]
	difference := compare(want, sums{}, books["quarantine "+bookConflict])
	a.add(checkConflicts, difference == "", "%s", cmp.Or(difference, "control sums = quarantine: "+cmp.Or(want[0], "0")+" dollars"))
	return nil
}

// compare names the counters in which rows and what is set aside aren't together what they should
// be, "" if there are none. Texts that are no numbers, as NaN, never are.
func compare(want, rows, aside sums) string {
	var differences []string
	for i := range want {
		wanted, ok := rational(want[i])
		booked, okRows := rational(rows[i])
		set, okAside := rational(aside[i])
		have := new(big.Rat).Add(booked, set)
		if ok && okRows && okAside && wanted.Cmp(have) == 0 {
			continue
		}
		text := strings.TrimSuffix(strings.TrimRight(have.FloatString(spend.AmountScale), "0"), ".")
		if !okRows || !okAside {
			text = "not a number"
		}
		differences = append(differences, fmt.Sprintf("%s: %s, should be %s", columns[i], text, cmp.Or(want[i], "0")))
	}
	return strings.Join(differences, "; ")
}

// rational reads the text of a sum, which may be missing.
func rational(text string) (r *big.Rat, ok bool) {
	r = new(big.Rat)
	_, ok = r.SetString(cmp.Or(text, "0"))
	return r, ok
}

func (a *audit) dictionary(ctx context.Context, tx querier) error {
	var totals, rollups, tags int64
	if err := tx.QueryRow(ctx, a.store.statement("audit_dictionary"), a.rows).Scan(&totals, &rollups, &tags); err != nil {
		return err
	}
	a.add(checkDictionaries, totals+rollups+tags == 0,
		"%d totals without their entity, %d rollup rows without their series, %d tags that differ", totals, rollups, tags)
	return nil
}

func (a *audit) entities(ctx context.Context, tx querier) error {
	rows, err := tx.Query(ctx, a.store.statement("audit_entities"), append(append([]any{maxDifferences}, a.aside.columns()...), a.rows, a.held)...)
	if err != nil {
		return err
	}
	var found []AuditDifference
	var d AuditDifference
	var n int64
	_, err = pgx.ForEachRow(rows, []any{
		&d.EntityType, &d.EntityID, &d.TeamID, &d.TotalSpend, &d.RollupSpend, &d.TotalRequests, &d.RollupRequests, &n,
	}, func() error {
		found = append(found, d)
		return nil
	})
	if err != nil {
		return err
	}
	a.report.Checks = append(a.report.Checks, AuditCheck{
		Name: checkEntities, OK: n == 0, Detail: fmt.Sprintf("%d entities differ", n), Entities: found,
	})
	return nil
}
