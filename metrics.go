package spendflush

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/spend"
)

// metrics are the counters that events move. What is a state is read at scrape time by collector
// instead, so that it can't go stale.
type metrics struct {
	refused      *prometheus.CounterVec
	sealed       prometheus.Counter
	pushed       prometheus.Counter
	pushFailures prometheus.Counter
	redeliveries prometheus.Counter
	duplicates   prometheus.Counter
	newer        *prometheus.GaugeVec
	quarantined  prometheus.Counter
	foreign      prometheus.Counter
	left         *prometheus.GaugeVec
	unsigned     prometheus.Counter
	fenced       prometheus.Counter
	gaps         *prometheus.GaugeVec
	lost         prometheus.Counter
	found        prometheus.Counter
	rewinds      prometheus.Counter
	restored     prometheus.Counter
	queueLost    prometheus.Counter
	identities   prometheus.Counter
	recovering   prometheus.Gauge

	journalFailures prometheus.Counter

	newIDs    prometheus.Counter
	repeats   *prometheus.CounterVec
	conflicts *prometheus.CounterVec

	locksWon     *prometheus.CounterVec
	locksLost    *prometheus.CounterVec
	flushSeconds *prometheus.HistogramVec
	flushRows    prometheus.Histogram
	rows         *prometheus.CounterVec
	batches      *prometheus.CounterVec
	updates      *prometheus.CounterVec
}

func newMetrics(shards int) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}

	m := &metrics{
		refused:      counters("spendflush_updates_refused_total", "Updates refused, by reason.", "reason"),
		sealed:       counter("spendflush_batches_sealed_total", "Batches sealed by this instance."),
		pushed:       counter("spendflush_batches_pushed_total", "Pushes that succeeded, repeated ones included."),
		pushFailures: counter("spendflush_push_failures_total", "Pushes that failed or whose outcome is unknown; they are repeated."),
		redeliveries: counter("spendflush_redelivery_checks_total", "Times that unconfirmed batches were pushed again in case the queue lost them."),
		duplicates:   counter("spendflush_duplicates_dropped_total", "Queue entries dropped because their batch was committed already."),
		newer: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "spendflush_newer_batches",
			Help: "Batches of a newer format seen in the queue at the last flush of this instance."}, []string{"shard"}),
		foreign: counter("spendflush_batches_foreign_total",
			"Batches put into quarantine because no key of this deployment has signed them."),
		left: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "spendflush_batches_left_aside",
			Help: "Entries of the queue that can't be booked and that quarantine has no room for, as of the last flush of this instance."},
			[]string{"shard"}),
		unsigned:    counter("spendflush_batches_unsigned_total", "Batches flushed without a signature, while these are accepted."),
		quarantined: counter("spendflush_batches_quarantined_total", "Batches that this instance put into quarantine."),
		fenced:      counter("spendflush_flushes_fenced_total", "Flushes rolled back because a claim was lost."),
		gaps: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "spendflush_gaps",
			Help: "Producers whose batches in the queue wait for an earlier one, as of the last flush of this instance."}, []string{"shard"}),
		lost:     counter("spendflush_lost_batches_total", "Batches that this instance passed as lost."),
		found:    counter("spendflush_found_batches_total", "Batches passed as lost that turned up and were committed by this instance."),
		rewinds:  counter("spendflush_rewinds_total", "Times that this instance found Postgres turned back."),
		restored: counter("spendflush_restored_batches_total", "Committed batches that this instance sent again because Postgres was turned back."),
		queueLost: counter("spendflush_queue_lost_batches_total", "Batches that the queue had taken and lost before they were committed, "+
			"as this instance found out. They are written directly."),
		identities: counter("spendflush_identities_lost_total", "Times that another process had used this one's identity, so that it went on under a new one."),
		recovering: prometheus.NewGauge(prometheus.GaugeOpts{Name: "spendflush_journal_leftover_batches",
			Help: "Batches of earlier processes in the journal that aren't in Postgres yet."}),
		journalFailures: counter("spendflush_journal_failures_total", "Writes to the journal that failed; they are repeated."),
		locksWon:        counters("spendflush_locks_won_total", "Times that this instance won the flush lock.", "shard"),
		locksLost:       counters("spendflush_locks_lost_total", "Times that this instance lost the flush lock while it held it.", "shard"),
		flushSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "spendflush_flush_seconds",
			Help: "Time that a committed flush took, by path.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"path"}),
		flushRows: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "spendflush_flush_rows",
			Help: "Rows that a committed flush wrote.", Buckets: prometheus.ExponentialBuckets(1, 4, 11)}),
		newIDs: counter("spendflush_ids_recorded_total", "Ids of updates and requests that this instance has recorded."),
		repeats: counters("spendflush_id_repeats_total", "Updates that weren't counted because they were before, under the same ids: held is what "+
			"this instance knew at once, books what its flushes took out.", "found"),
		conflicts: counters("spendflush_id_conflicts_total", "Updates whose ids were given to another content before: held were refused by this "+
			"instance, those of books its flushes have put into quarantine.", "found"),
		rows:    counters("spendflush_rows_committed_total", "Rows written by committed flushes, by table.", "table"),
		batches: counters("spendflush_batches_committed_total", "Batches committed by this instance, by path.", "path"),
		updates: counters("spendflush_updates_committed_total", "Updates committed by this instance for all producers, by path.", "path"),
	}

	m.begin(shards)
	return m
}

// begin pre-creates the label values that are known, so that rate() sees the first increment.
func (m *metrics) begin(shards int) {
	begin := func(c *prometheus.CounterVec, values ...string) {
		for _, v := range values {
			c.WithLabelValues(v)
		}
	}
	begin(m.refused, "invalid", "buffer_full", "id_reused", "closed")
	begin(m.repeats, "held", "books")
	begin(m.conflicts, "held", "books")
	begin(m.rows, "total", "rollup")
	begin(m.batches, "queue", "direct")
	begin(m.updates, "queue", "direct")
	for shard := range shards {
		begin(m.locksWon, strconv.Itoa(shard))
		begin(m.locksLost, strconv.Itoa(shard))
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.refused, m.sealed, m.pushed, m.pushFailures, m.redeliveries, m.duplicates, m.newer, m.quarantined, m.foreign, m.left, m.unsigned, m.fenced,
		m.locksWon, m.locksLost, m.flushSeconds, m.flushRows, m.rows, m.batches, m.updates,
		m.gaps, m.lost, m.found, m.rewinds, m.restored, m.queueLost, m.identities, m.recovering, m.journalFailures,
		m.newIDs, m.repeats, m.conflicts,
	}
}

func (m *metrics) refuse(err error, n int) {
	reason := "invalid"
	switch {
	case errors.Is(err, ErrBufferFull):
		reason = "buffer_full"
	case errors.Is(err, ErrIDReused):
		reason = "id_reused"
	case errors.Is(err, ErrClosed):
		reason = "closed"
	}
	m.refused.WithLabelValues(reason).Add(float64(n))
}

// flushed counts a flush that is committed. traceID is that of its trace, "" if it has none.
func (m *metrics) flushed(f *spend.Flush, taken []spend.TakenOut, path string, took time.Duration, traceID string) {
	observe(m.flushSeconds.WithLabelValues(path), took.Seconds(), traceID)
	observe(m.flushRows, float64(len(f.Totals)+len(f.Rollups)), traceID)
	m.rows.WithLabelValues("total").Add(float64(len(f.Totals)))
	m.rows.WithLabelValues("rollup").Add(float64(len(f.Rollups)))
	m.batches.WithLabelValues(path).Add(float64(f.Batches()))
	for i := range f.Lost {
		if !f.Lost[i].Quarantined {
			m.lost.Add(float64(f.Lost[i].Len()))
		}
	}
	m.quarantined.Add(float64(len(f.Quarantine)))
	m.found.Add(float64(len(f.Found)))
	duplicates, conflicts := takenUpdates(taken)
	m.repeats.WithLabelValues("books").Add(float64(duplicates))
	m.conflicts.WithLabelValues("books").Add(float64(conflicts))
	m.updates.WithLabelValues(path).Add(float64(f.Control.Rollups.APIRequests() - duplicates - conflicts))
}

// observe adds a value to a histogram, with the trace as its exemplar unless its id is "".
func observe(histogram prometheus.Observer, value float64, traceID string) {
	if traceID == "" {
		histogram.Observe(value)
		return
	}
	histogram.(prometheus.ExemplarObserver).ObserveWithExemplar(value, prometheus.Labels{"trace_id": traceID})
}

// collector reports the metrics of one pipeline. States are looked up when it is asked.
type collector struct{ p *Pipeline }

// register registers the metrics of a pipeline, in place of those of one that has ended.
func register(registerer prometheus.Registerer, c *collector) error {
	err := registerer.Register(c)
	if taken, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if before, ok := taken.ExistingCollector.(*collector); ok && before.p.hasEnded() && registerer.Unregister(before) {
			err = registerer.Register(c)
		}
	}
	if err != nil {
		return fmt.Errorf("register metrics: %w; for several pipelines of one process give each its own "+
			"Registerer: prometheus.WrapRegistererWith(prometheus.Labels{\"pipeline\": \"…\"}, registerer)", err)
	}
	return nil
}

func (p *Pipeline) hasEnded() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The five metrics of LiteLLM's high-availability setup, with exactly its names.
var (
	descPodLock = describe("litellm_pod_lock_manager_size",
		"1 on the instance that holds the flush lock of a shard, else 0; pod_lock_manager is the lock and the instance.", "pod_lock_manager")
	descMemorySpend = describe("litellm_in_memory_spend_update_queue_size",
		"Sums in memory on their way to entity totals: open combinations, and totals in sealed batches not queued yet.")
	descMemoryDaily = describe("litellm_in_memory_daily_spend_update_queue_size",
		"Sums in memory on their way to the rollup: open combinations, and rollup rows in sealed batches not queued yet.")
	descRedisSpend = describe("litellm_redis_spend_update_queue_size",
		"Batches in the Redis queue; each carries entity totals and rollup rows.")
	descRedisDaily = describe("litellm_redis_daily_spend_update_queue_size",
		"Batches in the Redis queue; each carries entity totals and rollup rows.")
)

var (
	descAccepted     = describe("spendflush_updates_accepted_total", "Updates accepted since the start.")
	descOpenKeys     = describe("spendflush_open_keys", "Distinct combinations in the open map.")
	descMaxKeys      = describe("spendflush_open_keys_limit", "Distinct combinations above which updates are refused.")
	descOpenUpdates  = describe("spendflush_open_updates", "Updates in the open map.")
	descAmount       = describe("spendflush_unconfirmed_amount_dollars", "Dollars not known to be in Postgres, by stage.", "stage")
	descUnconfirmed  = describe("spendflush_unconfirmed_batches", "Sealed batches not known to be in Postgres.", "shard")
	descUnconfBytes  = describe("spendflush_unconfirmed_bytes", "Bytes of sealed batches not known to be in Postgres.", "shard")
	descBytesLimit   = describe("spendflush_unconfirmed_bytes_limit", "Bytes of sealed batches and held ids in memory above which nothing is sealed, and no id is taken.")
	descHeldIDs      = describe("spendflush_ids_held", "Ids that this instance has recorded and that aren't known to be committed.")
	descHeldBytes    = describe("spendflush_ids_held_bytes", "Bytes that they take in memory, as spendflush_unconfirmed_bytes_limit counts them.")
	descNewEntities  = describe("spendflush_new_entities_total", "Entities of updates that this instance had not met lately.")
	descKeptBatches  = describe("spendflush_kept_batches", "Committed batches retained in memory in case Postgres is turned back.", "shard")
	descKeptBytes    = describe("spendflush_kept_bytes", "Bytes of committed batches retained in memory in case Postgres is turned back.", "shard")
	descUnjournaled  = describe("spendflush_journal_failing", "1 while the journal can't be written. Left out without a journal.", "shard")
	descOldest       = describe("spendflush_oldest_unconfirmed_seconds", "Age of the oldest sealed batch not known to be in Postgres, 0 if there is none.", "shard")
	descFallback     = describe("spendflush_fallback_active", "1 while this instance writes to Postgres directly.", "shard")
	descDenied       = describe("spendflush_access_denied", "1 while Redis or Postgres answers but refuses pushes, flushes or direct writes for lack of rights.", "shard")
	descLockHeld     = describe("spendflush_lock_held_seconds", "How long this instance has held the flush lock, 0 if it doesn't.", "shard")
	descBooks        = describe("spendflush_books_conflict", "1 if batches of other books are held, or another database uses the queue under the same books' id.")
	descQueueBatches = describe("spendflush_queue_batches", "Batches in the queue.", "shard")
	descQueueBytes   = describe("spendflush_queue_bytes", "Bytes that the queue uses, about.", "shard")
	descQueueOldest  = describe("spendflush_queue_oldest_seconds", "Age of the oldest entry in the queue, 0 if there is none.", "shard")
	descQueueUp      = describe("spendflush_queue_up", "1 if the queue answered at this scrape for every shard. Where it didn't, its other metrics are left out.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.p.metrics.collectors() {
		m.Describe(ch)
	}
	if c.p.cfg.LiteLLMMetrics {
		for _, d := range []*prometheus.Desc{descPodLock, descMemorySpend, descMemoryDaily, descRedisSpend, descRedisDaily} {
			ch <- d
		}
	}
	for _, d := range []*prometheus.Desc{
		descAccepted, descNewEntities, descHeldIDs, descHeldBytes, descOpenKeys,
		descMaxKeys, descOpenUpdates, descAmount, descUnconfirmed, descUnconfBytes, descOldest, descFallback,
		descLockHeld, descBooks, descQueueBatches, descQueueBytes, descQueueOldest, descQueueUp, descBytesLimit, descKeptBatches,
		descKeptBytes, descUnjournaled, descDenied,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It asks the queue, for at most scrapeTimeout.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.p.metrics.collectors() {
		m.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}

	now := c.p.time.Now()
	s := c.p.Status()
	totals, rollups := s.Open.Keys, s.Open.Keys
	var unconfirmed spend.Amount
	for _, st := range s.Shards {
		totals += int64(st.unqueuedTotals)
		rollups += int64(st.unqueuedRollups)
		unconfirmed = unconfirmed.Add(st.Amount)
		shard := strconv.Itoa(st.Shard)
		gauge(descUnconfirmed, float64(st.Unconfirmed), shard)
		gauge(descUnconfBytes, float64(st.Bytes), shard)
		gauge(descOldest, age(now, st.Oldest), shard)
		gauge(descKeptBatches, float64(st.Retained), shard)
		gauge(descKeptBytes, float64(st.RetainedBytes), shard)
		if c.p.cfg.Journal != nil {
			gauge(descUnjournaled, oneIf(st.JournalFailing), shard)
		}
		gauge(descFallback, oneIf(st.Fallback), shard)
		gauge(descDenied, oneIf(st.Denied != ""), shard)
		gauge(descLockHeld, age(now, st.HeldSince), shard)
		if c.p.cfg.LiteLLMMetrics {
			gauge(descPodLock, oneIf(st.HoldsLock), "flush/"+shard+":"+s.Instance)
		}
	}

	if c.p.cfg.LiteLLMMetrics {
		gauge(descMemorySpend, float64(totals))
		gauge(descMemoryDaily, float64(rollups))
	}
	ch <- prometheus.MustNewConstMetric(descAccepted, prometheus.CounterValue, float64(s.Accepted))
	ch <- prometheus.MustNewConstMetric(descNewEntities, prometheus.CounterValue, float64(c.p.open.newcomers.total()))
	ids, idBytes := c.p.open.facts.size()
	gauge(descHeldIDs, float64(ids))
	gauge(descHeldBytes, float64(idBytes))
	gauge(descOpenKeys, float64(s.Open.Keys))
	gauge(descMaxKeys, float64(s.Open.MaxKeys))
	gauge(descBytesLimit, float64(c.p.cfg.MaxUnconfirmedBytes))
	gauge(descOpenUpdates, float64(s.Open.Updates))
	gauge(descAmount, dollarsOf(s.Open.Amount), "open")
	gauge(descAmount, dollarsOf(unconfirmed), "sealed")
	gauge(descBooks, oneIf(s.BooksTrouble != ""))
	if c.p.cfg.Queue != nil {
		c.collectQueue(now, gauge)
	}
}

// scrapeTimeout bounds how long a scrape waits for the queue.
const scrapeTimeout = time.Second

func (c *collector) collectQueue(now time.Time, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	all := make([]spend.QueueStats, len(c.p.relays))
	errs := make([]error, len(all))
	var work sync.WaitGroup
	for shard := range all { // at once: one node of a cluster may hang
		work.Go(func() { all[shard], errs[shard] = c.p.books.current().queue.Stats(ctx, shard) })
	}
	work.Wait()
	var batches int64
	up := true
	for i, stats := range all {
		if errs[i] != nil {
			up = false
			continue
		}
		batches += stats.Batches
		shard := strconv.Itoa(i)
		gauge(descQueueBatches, float64(stats.Batches), shard)
		gauge(descQueueBytes, float64(stats.Bytes), shard)
		gauge(descQueueOldest, age(now, stats.Oldest), shard)
	}

	gauge(descQueueUp, oneIf(up))
	if up && c.p.cfg.LiteLLMMetrics {
		gauge(descRedisSpend, float64(batches))
		gauge(descRedisDaily, float64(batches))
	}
}

func age(now, then time.Time) float64 {
	if then.IsZero() {
		return 0
	}
	return max(0, now.Sub(then).Seconds())
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// dollarsOf returns about how many dollars a is. Only metrics may be inexact.
func dollarsOf(a spend.Amount) float64 {
	const two64 = 1 << 64
	hi, lo := a.Units()
	return (float64(hi)*two64 + float64(lo)) / 1e12
}
