package main

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/spendflush/spendflush/internal/clocks"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// newRegistry returns a registry with what every Go process tells, and what is known of Postgres,
// the queue's bounds and the journal.
func newRegistry(ps *parts) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &partsCollector{ps}, &booksCollector{ps})
	return registry
}

// partsCollector looks everything up when it is asked.
type partsCollector struct{ ps *parts }

// partMetric is one number of a store.
type partMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(pgstore.Stats) float64
}

func partDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var storeMetrics = []partMetric{
	{partDesc("spendflush_postgres_commits_total", "Flushes committed by this instance."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.Commits) }},
	{partDesc("spendflush_postgres_retries_total", "Tries of a flush after the first."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.Retries) }},
	{partDesc("spendflush_postgres_deadlocks_total", "Tries of a flush that ended in a deadlock."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.Deadlocks) }},
	{partDesc("spendflush_postgres_texts_sent_total", "Texts of entities and combinations sent to Postgres because this instance didn't know them to be there."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.Interned) }},
	{partDesc("spendflush_rows_quarantined_total", "Rows set aside because Postgres refused them."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.Refused) }},
	{partDesc("spendflush_postgres_ids_added_total", "Ids that this instance's flushes have added to the books."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.NewFacts) }},
	{partDesc("spendflush_postgres_id_retries_total", "Tries of a flush with ids that another one was faster than."), prometheus.CounterValue, func(s pgstore.Stats) float64 { return float64(s.Turned) }},
	{partDesc("spendflush_postgres_known_keys", "Keys remembered as being in the dictionaries."), prometheus.GaugeValue, func(s pgstore.Stats) float64 { return float64(s.KnownKeys) }},
	{partDesc("spendflush_postgres_connections", "Connections to Postgres that are open."), prometheus.GaugeValue, func(s pgstore.Stats) float64 { return float64(s.Conns) }},
	{partDesc("spendflush_postgres_connections_busy", "Connections to Postgres in use."), prometheus.GaugeValue, func(s pgstore.Stats) float64 { return float64(s.BusyConns) }},
	{partDesc("spendflush_postgres_connections_limit", "Connections to Postgres above which callers wait."), prometheus.GaugeValue, func(s pgstore.Stats) float64 { return float64(s.MaxConns) }},
}

var (
	descQueueLimit       = partDesc("spendflush_queue_bytes_limit", "Bytes of a shard's queue above which batches stay in memory. Left out without a bound.")
	descQueueKept        = partDesc("spendflush_queue_kept_bytes", "Bytes of acknowledged batches retained in Redis in case Postgres is turned back.", "shard")
	descRetentionDropped = partDesc("spendflush_queue_unkept_total", "Acknowledged batches that this instance could not retain because Redis was out of memory.")
	descJournal          = partDesc("spendflush_journal_bytes", "Bytes of the journal's files.")
	descJournalFile      = partDesc("spendflush_journal_files", "Files of the journal.")

	descBuild       = partDesc("spendflush_build_info", "1; the label is the version of the program.", "version")
	descClocks      = partDesc("spendflush_clock_difference_seconds", "How far the clock of the server is ahead of this instance's, at its last answer; of a cluster, that of one node. Left out before the first.", "server")
	descMayEvict    = partDesc("spendflush_redis_may_evict", "1 if the maxmemory-policy of Redis may throw batches away (allkeys-…). Left out if Redis doesn't tell it.")
	descMemory      = partDesc("spendflush_redis_memory_bytes", "Memory that Redis uses, for anything; of one node of a cluster.")
	descMemoryLimit = partDesc("spendflush_redis_memory_bytes_limit", "maxmemory of Redis. Left out without one.")
)

// Describe implements prometheus.Collector.
func (c *partsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range storeMetrics {
		ch <- m.desc
	}
	for _, d := range []*prometheus.Desc{descQueueLimit, descQueueKept, descRetentionDropped, descJournal, descJournalFile,
		descBuild, descClocks, descMayEvict, descMemory, descMemoryLimit} {
		ch <- d
	}
}

// storeStats are the numbers of both stores together.
func (ps *parts) storeStats() pgstore.Stats {
	s, reads := ps.store.Stats(), ps.reads.Stats()
	s.Commits += reads.Commits // of quarantined batches that were applied
	s.Retries += reads.Retries
	s.Deadlocks += reads.Deadlocks
	s.Refused += reads.Refused
	s.Interned += reads.Interned
	s.Conns += reads.Conns
	s.BusyConns += reads.BusyConns
	s.MaxConns += reads.MaxConns
	return s
}

// scrapeTimeout bounds how long a scrape waits for Redis, and for Postgres.
const scrapeTimeout = time.Second

// Collect implements prometheus.Collector.
func (c *partsCollector) Collect(ch chan<- prometheus.Metric) {
	stats, locks := c.ps.storeStats(), c.ps.locks.Stat()
	stats.Conns, stats.BusyConns, stats.MaxConns = stats.Conns+locks.TotalConns(), stats.BusyConns+locks.AcquiredConns(), stats.MaxConns+locks.MaxConns()
	for _, m := range storeMetrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(stats))
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descBuild, 1, programVersion())
	for _, server := range []string{clocks.Postgres, clocks.Redis} {
		if ahead, ok := c.ps.clocks.Ahead(server); ok {
			gauge(descClocks, ahead.Seconds(), server)
		}
	}
	set := c.ps.set
	if c.ps.queue != nil {
		ch <- prometheus.MustNewConstMetric(descRetentionDropped, prometheus.CounterValue, float64(c.ps.queue.Unretained()))
	}
	if c.ps.queue != nil && set.QueueMaxBytes > 0 {
		gauge(descQueueLimit, float64(set.QueueMaxBytes))
	}
	if c.ps.journal != nil {
		stats := c.ps.journal.Stats()
		gauge(descJournal, float64(stats.Bytes))
		gauge(descJournalFile, float64(stats.Files))
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	c.collectRedis(ctx, gauge)
	c.collectRetained(ctx, gauge)
}

// collectRedis tells what Redis says about itself.
func (c *partsCollector) collectRedis(ctx context.Context, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	if c.ps.queue == nil {
		return
	}
	info, err := c.ps.queue.Info(ctx)
	if err != nil {
		return
	}
	if info.EvictionPolicy != "" {
		evicts := 0.0
		if info.MayEvict() {
			evicts = 1
		}
		gauge(descMayEvict, evicts)
	}
	if info.Memory > 0 {
		gauge(descMemory, float64(info.Memory))
	}
	if info.MemoryLimit > 0 {
		gauge(descMemoryLimit, float64(info.MemoryLimit))
	}
}

// collectRetained tells what Redis retains in case Postgres is turned back.
func (c *partsCollector) collectRetained(ctx context.Context, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	if c.ps.queue == nil || c.ps.set.RewindWindow == 0 {
		return
	}
	id := c.ps.notedBooks(ctx)
	if id.IsZero() {
		return
	}
	queue := c.ps.queue.Of(id)
	shards, err := queue.Retained(ctx)
	if err != nil {
		return
	}
	for shard := range spend.MaxShards {
		if shard >= c.ps.set.Shards && !slices.Contains(shards, shard) {
			continue
		}
		_, bytes, err := queue.RetainedStats(ctx, shard)
		if err != nil {
			return
		}
		gauge(descQueueKept, float64(bytes), strconv.Itoa(shard))
	}
}
