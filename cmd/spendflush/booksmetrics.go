package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descPostgresUp    = partDesc("spendflush_postgres_up", "1 if Postgres answered at this scrape, with the tables there. What else is read from it is left out if not.")
	descOldPrimary    = partDesc("spendflush_postgres_old_primary", "1 if a server of several in DATABASE_URL takes writes although another was promoted in its place. Nothing is written there.")
	descQuarantine    = partDesc("spendflush_quarantine_open", "Entries open in quarantine.")
	descLost          = partDesc("spendflush_lost_batches_open", "Batches passed as lost that haven't turned up.")
	descIDs           = partDesc("spendflush_ids", "Ids in the books, by Postgres's estimate.")
	descIDBytes       = partDesc("spendflush_ids_bytes", "Bytes of the tables that ids lie in, and of their indexes.")
	descIDsCurrent    = partDesc("spendflush_ids_current_seconds", "For how long ids have gone into the part that takes them now, as time is observed for ids. After a quarter of the window the next one does.")
	descIDsTended     = partDesc("spendflush_ids_tended_seconds", "How long ago an instance has tended the ids, which each does once a minute.")
	descIDWindow      = partDesc("spendflush_id_window_seconds", "For how long after its commit an id counts no second time.")
	descAuditOK       = partDesc("spendflush_audit_ok", "1 if the books added up at the last audit, whoever made it. Left out before the first.")
	descAuditTime     = partDesc("spendflush_audit_timestamp_seconds", "When the last audit was made, 0 before the first.")
	descAuditTook     = partDesc("spendflush_audit_duration_seconds", "How long the last audit took. Left out before the first.")
	descAuditInterval = partDesc("spendflush_audit_interval_seconds", "How long after the last audit the next is made. Left out if none is made regularly.")
)

// booksCollector tells what Postgres says of the books when it is asked. All instances tell the
// same. It is a collector of its own so that Redis and Postgres are waited for at the same time.
type booksCollector struct{ ps *parts }

// Describe implements prometheus.Collector.
func (c *booksCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPostgresUp, descOldPrimary, descQuarantine, descLost, descIDs, descIDBytes, descIDsCurrent, descIDsTended,
		descIDWindow, descAuditOK, descAuditTime, descAuditTook, descAuditInterval} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *booksCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	if every := c.ps.set.AuditInterval; every > 0 {
		gauge(descAuditInterval, every.Seconds())
	}
	gauge(descIDWindow, c.ps.set.IDWindow.Seconds())
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	books, err := c.ps.reads.Summary(ctx)
	if err != nil {
		gauge(descPostgresUp, 0)
		return
	}
	gauge(descPostgresUp, 1)
	old := 0.0
	if books.OldPrimary != "" {
		old = 1
	}
	gauge(descOldPrimary, old)
	gauge(descQuarantine, float64(books.Quarantined))
	gauge(descLost, float64(books.LostBatches))
	c.collectIDs(ctx, gauge)
	last := books.LastAudit
	if last == nil {
		gauge(descAuditTime, 0)
		return
	}
	ok := 0.0
	if last.OK {
		ok = 1
	}
	gauge(descAuditOK, ok)
	gauge(descAuditTime, float64(last.AsOf.UnixMilli())/1000)
	gauge(descAuditTook, last.Took.Seconds())
}

// collectIDs tells how many ids the books have, and whether old ones are forgotten.
func (c *booksCollector) collectIDs(ctx context.Context, gauge func(d *prometheus.Desc, v float64)) {
	parts, err := c.ps.reads.FactParts(ctx)
	if err != nil {
		return
	}
	var rows, bytes int64
	for _, p := range parts {
		rows, bytes = rows+p.Rows, bytes+p.Bytes
		if p.State == "current" {
			gauge(descIDsCurrent, p.Age.Seconds())
			gauge(descIDsTended, p.Untended.Seconds())
		}
	}
	gauge(descIDs, float64(rows))
	gauge(descIDBytes, float64(bytes))
}
