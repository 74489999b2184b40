package sql

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush"
)

// AuditReport says whether the books add up, as of one snapshot.
type AuditReport struct {
	OK          bool         `json:"ok"`           // no check failed
	AsOf        time.Time    `json:"as_of"`        // when the snapshot was taken, by Postgres's clock
	Checks      []AuditCheck `json:"checks"`       // all that were made
	Quarantined int64        `json:"quarantined"`  // open entries of the quarantine
	LostBatches int64        `json:"lost_batches"` // batches passed as lost and not found since

	// What producers sealed and isn't in the books because batches are lost.
	LostUpdates int64             `json:"lost_updates"`
	LostAmount  spendflush.Amount `json:"lost_amount"`

	Quarantine AuditQuarantine `json:"quarantine"` // what the open entries count
}

// AuditQuarantine is what is open in quarantine. Sums are decimal texts.
//
// What the rows count was claimed and is missing in the rows of the books. What the batches count may be in the books
// all the same: a producer sends a batch again whose bytes were damaged.
type AuditQuarantine struct {
	Rows    []AuditRows  `json:"rows"` // by book: a request counts in several
	Batches AuditBatches `json:"batches"`
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

// AuditCheck is one comparison of two books.
type AuditCheck struct {
	Name     string            `json:"name"`
	OK       bool              `json:"ok"`                // true if it was skipped
	Skipped  string            `json:"skipped,omitempty"` // why it couldn't be made just now
	Detail   string            `json:"detail"`            // what was compared, or what differs
	Entities []AuditDifference `json:"entities,omitempty"`
}

// AuditDifference is an entity whose total isn't the sum of its rollups. The sums are decimal texts, "none" where
// there is no such row.
type AuditDifference struct {
	EntityType     string `json:"entity_type"`
	EntityID       string `json:"entity_id"`
	TeamID         string `json:"team_id,omitempty"`
	TotalSpend     string `json:"total_spend"`
	RollupSpend    string `json:"rollup_spend"`
	TotalRequests  string `json:"total_requests"`
	RollupRequests string `json:"rollup_requests"`
}

// maxDifferences bounds the entities that a report names.
const maxDifferences = 20

// Audit compares the books with each other, every counter exactly:
//
//   - what each producer sealed up to its mark with what is booked of it, unless batches of it are lost,
//   - what the producers' claims add up to with the control sums,
//   - the control sum of each book (the rollups, the totals of each entity type) with its rows and those of them that
//     are set aside in quarantine,
//   - each total with the rollups of its entity, where all producers' seals are whole (a seal's totals and rollups may
//     lie in several batches and lanes),
//   - the dictionaries with the rows that name their entries.
//
// It reads everything, in a time that grows with the rollups, while flushes go on. An error means that the books
// couldn't be read; that they don't add up is in the report. The result is kept for Glance, where the database lets it:
// a standby, and a role that may only read, can be audited too.
func (s *Store) Audit(ctx context.Context) (AuditReport, error) {
	start := time.Now()
	var report AuditReport
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := s.inTx(ctx, options, func(tx pgx.Tx) error {
		a := audit{store: s, tx: tx, report: &report}
		for _, step := range []func(context.Context) error{a.motion, a.quarantine, a.books, a.dictionary, a.entities} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return AuditReport{}, fmt.Errorf("audit: %w", err)
	}
	report.OK = true
	for _, c := range report.Checks {
		report.OK = report.OK && c.OK
	}
	_ = s.noteAudit(ctx, report, time.Since(start))
	return report, nil
}

type audit struct {
	store  *Store
	tx     pgx.Tx
	report *AuditReport

	moving   int64 // producers in the middle of a seal
	setAside int64 // rows in quarantine, or dropped from there
}

func (a *audit) add(name string, ok bool, format string, args ...any) {
	a.report.Checks = append(a.report.Checks, AuditCheck{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
}

func (a *audit) motion(ctx context.Context) error {
	r := a.report
	var unexplained string
	err := a.tx.QueryRow(ctx, a.store.statement("audit_motion")).
		Scan(&r.AsOf, &a.moving, &r.LostBatches, &r.LostUpdates, &r.LostAmount, &unexplained, &r.Quarantined, &a.setAside)
	if err != nil {
		return err
	}
	a.add("sealed = booked", unexplained == "0",
		"producers that sealed other sums than are booked without a lost batch: %s; lost: %d updates of %s dollars",
		unexplained, r.LostUpdates, r.LostAmount)
	return nil
}

func (a *audit) quarantine(ctx context.Context) error {
	rows, err := a.tx.Query(ctx, a.store.statement("audit_quarantine"))
	if err != nil {
		return err
	}
	q := &a.report.Quarantine
	q.Rows, q.Batches = []AuditRows{}, AuditBatches{Spend: "0", Updates: "0"}
	var kind, book, spend, requests string
	var entries, unknown int64
	_, err = pgx.ForEachRow(rows, []any{&kind, &book, &entries, &unknown, &spend, &requests}, func() error {
		if kind == "batch" {
			q.Batches = AuditBatches{Entries: entries, Unknown: unknown, Spend: spend, Updates: requests}
		} else {
			q.Rows = append(q.Rows, AuditRows{Book: book, Entries: entries, Spend: spend, Requests: requests})
		}
		return nil
	})
	return err
}

// sums are the counters of a book, as texts because sums over a whole book may be larger than any row.
type sums [7]string

var sumNames = [len(sums{})]string{
	"spend", "successful_requests", "failed_requests", "prompt_tokens", "completion_tokens",
	"cache_read_input_tokens", "cache_creation_input_tokens",
}

func (a *audit) books(ctx context.Context) error {
	rows, err := a.tx.Query(ctx, a.store.statement("audit_books"))
	if err != nil {
		return err
	}
	books := map[string]sums{} // by place and book
	var place, book string
	var s sums
	_, err = pgx.ForEachRow(rows, []any{&place, &book, &s[0], &s[1], &s[2], &s[3], &s[4], &s[5], &s[6]}, func() error {
		books[place+" "+book] = s
		return nil
	})
	if err != nil {
		return err
	}
	a.compareProducers(books["producers rollup"], books["control rollup"])
	names := []string{bookName(0)}
	for _, t := range spendflush.EntityTypes() {
		names = append(names, t.String())
	}
	for _, name := range names {
		difference := compare(books["control "+name], add(books["rows "+name], books["quarantine "+name]))
		label := "totals of " + name
		if name == bookName(0) {
			label = "rollups"
		}
		a.add(label, difference == "", "%s", orElse(difference, "control sums = rows: "+value(books["control "+name][0])+" dollars"))
	}
	return nil
}

// compareProducers compares amounts and numbers of requests, which is what claims have.
func (a *audit) compareProducers(producers, control sums) {
	requests := add(sums{1: control[1]}, sums{1: control[2]})
	difference := compare(sums{0: producers[0], 1: producers[1]}, sums{0: control[0], 1: requests[1]})
	a.add("producers", difference == "", "%s",
		orElse(difference, "claims = control sums: "+value(producers[0])+" dollars in "+value(producers[1])+" updates"))
}

// value is the text of a sum that may be missing.
func value(text string) string { return orElse(text, "0") }

func orElse(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}

func rational(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(value(text))
	if !ok {
		return new(big.Rat)
	}
	return r
}

func add(a, b sums) (sum sums) {
	for i := range sum {
		r := new(big.Rat).Add(rational(a[i]), rational(b[i]))
		sum[i] = strings.TrimSuffix(strings.TrimRight(r.FloatString(spendflush.AmountScale), "0"), ".")
	}
	return sum
}

// compare names the counters that differ, "" if none does.
func compare(want, have sums) string {
	var differences []string
	for i := range want {
		if rational(want[i]).Cmp(rational(have[i])) != 0 {
			differences = append(differences, fmt.Sprintf("%s: %s, should be %s", sumNames[i], value(have[i]), value(want[i])))
		}
	}
	return strings.Join(differences, "; ")
}

func (a *audit) dictionary(ctx context.Context) error {
	var totals, rollups, tags int64
	if err := a.tx.QueryRow(ctx, a.store.statement("audit_dictionary")).Scan(&totals, &rollups, &tags); err != nil {
		return err
	}
	a.add("dictionaries", totals+rollups+tags == 0,
		"%d totals without their entity, %d rollup rows without their series, %d tags that differ", totals, rollups, tags)
	return nil
}

func (a *audit) entities(ctx context.Context) error {
	const name = "each total = its rollups"
	skip := ""
	switch {
	case a.report.LostBatches > 0:
		skip = fmt.Sprintf("%d batches are lost, perhaps with part of a seal", a.report.LostBatches)
	case a.setAside > 0:
		skip = fmt.Sprintf("%d rows are set aside in quarantine", a.setAside)
	case a.moving > 0:
		skip = fmt.Sprintf("%d producers are in the middle of a seal", a.moving)
	}
	if skip != "" {
		a.report.Checks = append(a.report.Checks, AuditCheck{Name: name, OK: true, Skipped: skip, Detail: "skipped: " + skip})
		return nil
	}
	rows, err := a.tx.Query(ctx, a.store.statement("audit_entities"), maxDifferences)
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
		Name: name, OK: n == 0, Detail: fmt.Sprintf("%d entities differ", n), Entities: found,
	})
	return nil
}
