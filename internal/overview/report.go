// Package overview says how the whole pipeline stands, for people: all instances, the queue, the
// locks, Postgres, and in one plain sentence whether the books are exact and how far they are
// behind.
//
// Collect looks at everything once, and judge, which is a pure function, says what is wrong with it
// and what to do. Live is for an instance: it writes the instance's own heartbeat every second, and
// keeps what was collected for a moment, so that many can look at once.
//
// It is for looking at: everything here may be a second old or missing, and nothing that counts
// depends on it.
package overview

import (
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Report is how the pipeline stands. Its JSON is the answer to GET /v1/pipeline.
type Report struct {
	AsOf     time.Time `json:"as_of"`
	State    State     `json:"state"`
	Sentence string    `json:"sentence"` // one or two plain sentences for people
	Problems []Problem `json:"problems"` // the gravest first

	// Behind is the age in seconds of the oldest accepted update that isn't in Postgres, as far as
	// it is known: of instances that aren't heard from only what they have queued counts.
	Behind float64 `json:"behind_seconds"`

	Instances         []Instance `json:"instances"`
	InstancesComplete bool       `json:"instances_complete"` // false: Redis is away or not used, and only this instance is listed

	Queue    Queue    `json:"queue"`
	Locks    []Lock   `json:"locks"`
	Flushes  []Flush  `json:"flushes"` // of all instances listed, newest first, at most 20
	Postgres Postgres `json:"postgres"`
	IDs      IDs      `json:"ids"`

	Quarantined int64     `json:"quarantined"` // open entries
	Conflicts   int64     `json:"conflicts"`   // those of them whose updates have ids that were used before, for something else
	LostBatches int64     `json:"lost_batches"`
	LastLost    time.Time `json:"last_lost_at,omitzero"` // when the last of these was noticed
	LastAudit   *Audit    `json:"last_audit"`            // the last one, whoever made it; nil: none is known
}

// State is how grave things are.
type State string

// The states.
const (
	OK   State = "ok"
	Warn State = "warn"
	Bad  State = "bad"
)

// Problem is something that an operator should look at.
type Problem struct {
	Severity State  `json:"severity"` // warn or bad
	What     string `json:"what"`
	Do       string `json:"do"`
	Runbook  string `json:"runbook"` // an anchor in docs/runbook.md
}

// Instance is one process that takes updates.
type Instance struct {
	Instance  string    `json:"instance"`
	Producer  string    `json:"producer"`
	Version   string    `json:"version"`
	Self      bool      `json:"self"`  // it made this report
	Alive     bool      `json:"alive"` // it was heard from within AliveFor
	SeenAt    time.Time `json:"seen_at"`
	StartedAt time.Time `json:"started_at"`

	// What it has accepted and doesn't know to be in Postgres.
	HeldUpdates int64        `json:"held_updates"`
	HeldAmount  spend.Amount `json:"held_amount"`
	Keys        int64        `json:"keys"` // distinct combinations in the open map
	MaxKeys     int64        `json:"max_keys"`
	Unconfirmed int          `json:"unconfirmed_batches"`
	Behind      float64      `json:"behind_seconds"`

	Fallback       bool      `json:"fallback"` // it writes to Postgres directly, although there should be a queue
	JournalFailing bool      `json:"journal_failing"`
	Denied         string    `json:"denied,omitempty"` // what Redis or Postgres has refused it for lack of rights
	NotReady       string    `json:"not_ready"`        // why it isn't ready; "" if it is
	HoldsShards    []int     `json:"holds_shards"`
	Deadlocks      int64     `json:"deadlocks"` // tries of a flush that ended in one, since the start
	LastDeadlock   time.Time `json:"last_deadlock_at,omitzero"`

	// How far the clock of the server is ahead of the instance's; 0 as long as it isn't known.
	PostgresAhead float64 `json:"postgres_ahead_seconds"`
	RedisAhead    float64 `json:"redis_ahead_seconds"`
}

// AliveFor is how long an instance that isn't heard from is taken to be alive. It tells of itself
// every second.
const AliveFor = 5 * time.Second

// Queue is the queue in Redis.
type Queue struct {
	Used     bool         `json:"used"`         // false: instances write to Postgres directly, and the rest is empty
	Left     int64        `json:"left_batches"` // in a Redis that is switched off: they aren't in the books
	Up       bool         `json:"up"`           // for one shard at least
	Error    string       `json:"error"`        // of the first shard that has one
	Refusal  string       `json:"refusal"`      // what Redis itself answered, where it is reached and refuses
	Replica  bool         `json:"replica"`      // of another Redis: it can be read, and answers READONLY to what is written
	Batches  int64        `json:"batches"`
	Bytes    int64        `json:"bytes"`
	MaxBytes int64        `json:"max_bytes"` // of all shards; 0: no bound
	Oldest   float64      `json:"oldest_age_seconds"`
	Shards   []QueueShard `json:"shards"`
}

// QueueShard is one shard of the queue.
type QueueShard struct {
	Shard   int     `json:"shard"`
	Batches int64   `json:"batches"`
	Bytes   int64   `json:"bytes"`
	Oldest  float64 `json:"oldest_age_seconds"` // 0 if it is empty
	Error   string  `json:"error"`              // not "": its node in Redis doesn't answer, or refuses, and nothing else is known
	Refusal string  `json:"refusal"`            // what Redis itself answered
}

// Lock is the lock of a shard's flusher. Nobody holds it while there is nothing to flush.
type Lock struct {
	Shard  int      `json:"shard"`
	Holder string   `json:"holder"`       // name of the instance, "" if there is none
	Held   *float64 `json:"held_seconds"` // nil if it isn't known
}

// Flush is a flush that was committed.
type Flush struct {
	At       time.Time    `json:"at"`
	Shard    int          `json:"shard"`
	Instance string       `json:"instance"`
	Path     string       `json:"path"` // queue or direct
	Batches  int          `json:"batches"`
	Rows     int          `json:"rows"`
	Updates  int64        `json:"updates"`
	Amount   spend.Amount `json:"amount"`
	Seconds  float64      `json:"duration_seconds"`
	Behind   float64      `json:"behind_seconds"` // age of its oldest batch at the commit
}

const maxFlushes = 20

// Postgres is the database.
type Postgres struct {
	Up             bool         `json:"up"`
	Migrated       bool         `json:"migrated"` // the tables are there
	Error          string       `json:"error"`
	Refusal        string       `json:"refusal"`     // what Postgres itself answered, where it is reached and refuses
	OldPrimary     string       `json:"old_primary"` // a server of DATABASE_URL that takes writes although another was promoted
	Version        string       `json:"version"`
	Connections    int          `json:"connections"` // by whomever
	MaxConnections int          `json:"max_connections"`
	Updates        int64        `json:"updates"` // in the books
	Amount         spend.Amount `json:"amount"`
}

// Audit is what an audit said.
type Audit struct {
	At   time.Time `json:"at"`
	OK   bool      `json:"ok"`
	Took float64   `json:"took_seconds"`
}
