package spendflush

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/internal/bounds"
	"github.com/spendflush/spendflush/spend"
)

// Config says how a Pipeline works. Only Store and DirectLocker must be set; the zero value of any
// other field stands for its default. With a Queue, a Locker is needed too.
type Config struct {
	// Store is the database that the books are in.
	Store spend.Store

	// Queue carries the batches to the lock holder. nil: every instance writes its own batches
	// itself, one instance at a time.
	Queue spend.Queue

	// Locker decides which instance flushes the queue. Its locks are named "flush/0", "flush/1", …
	// by shard.
	Locker spend.Locker

	// DirectLocker decides which instance writes its own batches while there is no queue. It must
	// not depend on what the queue depends on. Its locks are named "direct/0", "direct/1", … by
	// shard.
	DirectLocker spend.Locker

	// Instance names this process in locks, logs and metrics. Default: "instance".
	Instance string

	// Shards is the number of independent shards, 1 to MaxShards. All instances should have the
	// same. Default: 1.
	Shards int

	// SealInterval is how often the open map is sealed, 1ms to 1m. Default: 200ms.
	SealInterval time.Duration

	// FlushInterval is how long the lock holder lets batches gather from the beginning of one flush
	// to the next, 1ms to 1m. Default: 500ms.
	FlushInterval time.Duration

	// MaxKeys bounds the distinct combinations in the open map. One whose ids, tags and dimensions
	// have more than 500 bytes takes another place for each 500. Above it Record returns
	// ErrBufferFull. 1 to 100000000. Default: 1000000.
	MaxKeys int

	// MaxNewKeysPerDay bounds the new combinations and entities of one caller of RecordAllFor
	// within a day of this process: rows that stay in Postgres. A combination that is idle for
	// twenty minutes, or in another hour, is new again. Above it RecordAllFor returns ErrDayFull.
	// Default: 0, no bound.
	MaxNewKeysPerDay int64

	// MaxUnconfirmedBytes bounds the sealed batches that wait in memory for Postgres, and the ids
	// that do: 256 bytes for each. Above it the open map goes on summing and isn't sealed, and
	// updates with ids are refused by ErrBufferFull. From 1 MiB. Default: 64 MiB.
	MaxUnconfirmedBytes int

	// GapGrace is how long a batch waits for an earlier one of its producer that is missing from
	// the queue. After it the missing one is reported as lost and skipped; should it turn up later,
	// it is counted nevertheless. 1s to 24h. Default: 10m.
	GapGrace time.Duration

	// RewindWindow is how far back Postgres may be turned (restored from a backup, failed over to a
	// standby that lags) without loss: batches are kept for so long after their commit, in memory
	// and, if the Queue is a Retainer, there. 0: not at all. At most 24h. With it, a Queue must be
	// a Retainer.
	RewindWindow time.Duration

	// IDWindow is for how long after its commit an id counts no second time. One that is older is
	// forgotten, and counts again. 1h to 4320h. Default: 864h, 36 days: a day more than Update.Time
	// may lie back.
	IDWindow time.Duration

	// DrainTimeout is how long Run goes on to drain after its context has ended. From 1ms. Default:
	// 10s.
	DrainTimeout time.Duration

	// Journal keeps sealed batches on a disk until they are committed. nil: there is none. It stays
	// the caller's, who closes it after Run.
	Journal spend.Journal

	// BatchKeys sign what is sealed, and tell batches of this deployment from those that another
	// program has put into the queue or the journal, which go to quarantine. All instances must
	// accept each other's; see BatchKeys. The zero value: none is signed or checked. The keys
	// aren't copied and must not be changed.
	BatchKeys spend.BatchKeys

	// RollupDimensions are the dimensions that the rollup keeps apart, out of DimensionNames. nil:
	// all. Empty: none.
	RollupDimensions []string

	// Logger gets a line for every change of state. nil: nothing is logged.
	Logger *slog.Logger

	// Registerer gets the metrics. nil: none are kept anywhere. Several pipelines of one process
	// need one each, such as prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": "chat"},
	// registerer), all with the same names of labels. The metrics of a pipeline that has ended stay
	// until another one takes their place.
	Registerer prometheus.Registerer

	// LiteLLMMetrics adds the five metrics of LiteLLM's high-availability setup, by its names
	// (litellm_…).
	LiteLLMMetrics bool

	// Tracer is told of seals, pushes and flushes. nil: nobody is.
	Tracer Tracer

	clock clock // nil: the system's; only tests set another

	newProducer func(now, notBefore time.Time) spend.ProducerID // nil: NewProducerID of the later time; only tests set another

	limits limits // zero: those below; only tests set others
}

// WithDefaults returns a copy in which every field left zero has its default.
func (c Config) WithDefaults() Config {
	c.Instance = cmp.Or(c.Instance, "instance")
	c.Shards = cmp.Or(c.Shards, 1)
	c.SealInterval = cmp.Or(c.SealInterval, 200*time.Millisecond)
	c.FlushInterval = cmp.Or(c.FlushInterval, 500*time.Millisecond)
	c.MaxKeys = cmp.Or(c.MaxKeys, 1_000_000)
	c.MaxUnconfirmedBytes = cmp.Or(c.MaxUnconfirmedBytes, 64<<20)
	c.GapGrace = cmp.Or(c.GapGrace, 10*time.Minute)
	c.IDWindow = cmp.Or(c.IDWindow, 36*24*time.Hour)
	if c.limits == (limits{}) {
		c.limits = limits{flush: largestFlush, bytes: flushBytes, waiting: waitingBudget, keys: knownKeySlots}
	}
	if c.newProducer == nil {
		c.newProducer = func(now, notBefore time.Time) spend.ProducerID { return spend.NewProducerID(later(now, notBefore)) }
	}
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 10*time.Second)
	if c.RollupDimensions == nil {
		c.RollupDimensions = spend.DimensionNames()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return c
}

// Validate returns all that is wrong with the configuration at once, each line naming the field and
// what is allowed.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Store == nil {
		fault("Store: is nil; a Store is needed")
	}
	if c.DirectLocker == nil {
		fault("DirectLocker: is nil; a Locker is needed")
	}
	if (c.Queue == nil) != (c.Locker == nil) {
		fault("Queue and Locker: one of them is nil; both or neither are needed")
	}
	for _, of := range c.numbers() {
		if !of.bound.Has(of.value) {
			fault("%s: %s; allowed are %s", of.field, of.bound.Text(of.value), of.bound)
		}
	}
	if _, ok := c.Queue.(spend.Retainer); c.RewindWindow > 0 && c.Queue != nil && !ok {
		fault("RewindWindow: %s; the Queue must be a Retainer", c.RewindWindow)
	}
	if err := c.BatchKeys.Validate(); err != nil {
		fault("BatchKeys: %w", err)
	}
	for _, name := range c.RollupDimensions {
		if !slices.Contains(spend.DimensionNames(), name) {
			fault("RollupDimensions: %q; allowed are %s", name, strings.Join(spend.DimensionNames(), ", "))
		}
	}
	return errors.Join(faults...)
}

// number is the value of a field that is a number or a duration.
type number struct {
	field string
	value int64
	bound bounds.Bound
}

func (c *Config) numbers() []number {
	return []number{
		{"Shards", int64(c.Shards), bounds.Shards},
		{"SealInterval", int64(c.SealInterval), bounds.SealInterval},
		{"FlushInterval", int64(c.FlushInterval), bounds.FlushInterval},
		{"MaxKeys", int64(c.MaxKeys), bounds.MaxKeys},
		{"MaxNewKeysPerDay", c.MaxNewKeysPerDay, bounds.MaxNewKeysPerDay},
		{"MaxUnconfirmedBytes", int64(c.MaxUnconfirmedBytes), bounds.MaxUnconfirmedBytes},
		{"DrainTimeout", int64(c.DrainTimeout), bounds.Duration(time.Millisecond, bounds.NoEnd)},
		{"GapGrace", int64(c.GapGrace), bounds.GapGrace},
		{"RewindWindow", int64(c.RewindWindow), bounds.RewindWindow},
		{"IDWindow", int64(c.IDWindow), bounds.IDWindow},
	}
}

func (c Config) keep() (keep spend.Dimensions) {
	for i, name := range spend.DimensionNames() {
		if slices.Contains(c.RollupDimensions, name) {
			keep |= 1 << i
		}
	}
	return keep
}

// limits bound what a flusher deals with at once and remembers.
type limits struct {
	flush   flushLimit
	bytes   int // of batches read for one flush, about
	waiting int // bytes of batches behind gaps that one walk over the queue keeps in memory
	keys    int // that are remembered as right over all shards; at least one a shard
}

// How the engine waits. These are not settings: there is no reason to change them.
const (
	maxAtRisk = 8 // batches of a relay neither queued, journaled nor committed, above which the open map goes on summing

	clockInterval = time.Second // how often the clock is read for updates without a time

	confirmInterval = 50 * time.Millisecond // how often an unconfirmed relay looks for its mark
	stallAfter      = 2 * time.Second       // no progress for so long: ask Postgres, and see to it that the queue has all
	fallbackAfter   = time.Second           // pushes failing for so long: write directly
	retryFirst      = 50 * time.Millisecond // pause after a failure, doubled at each
	retryMost       = 2 * time.Second

	queueTimeout = 5 * time.Second  // one call to the queue or the lock
	probeTimeout = time.Second      // one look whether a queue that failed answers again
	marksTimeout = 10 * time.Second // one read of marks

	ackAgainTimeout = 500 * time.Millisecond // an ack to a queue that didn't take the one before
	applyTimeout    = 30 * time.Second       // one flush, its retries included; the next one is smaller
	readEntries     = 1024                   // entries read from the queue at once
	readBytes       = 8 << 20                // and their bytes
	flushBytes      = 32 << 20               // bytes of batches read for one flush, about
	flushTexts      = 32 << 20               // bytes of the texts of its series
	flushRows       = 200_000                // rows of one flush, about: what Postgres commits in half a second or so
	waitingBudget   = 32 << 20               // bytes of batches behind a gap that one walk over the queue keeps in memory

	rewindCheck   = 2 * time.Second     // how often it is looked whether Postgres was turned back
	touchInterval = time.Hour           // how often marks are touched
	markRetention = 30 * 24 * time.Hour // how long a mark is kept that is neither moved nor touched
)

// knownKeySlots is how many keys are remembered over all shards: 3 MiB.
const knownKeySlots = 1 << 17
