package overview

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// well is a report of a pipeline on which nothing is wrong.
func well() Report {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	held := 3.0
	return Report{
		AsOf:      now,
		Instances: []Instance{{Instance: "a", Self: true, Alive: true, MaxKeys: 1000}, {Instance: "b", Alive: true, MaxKeys: 1000}},
		Queue: Queue{Used: true, Up: true, MaxBytes: 2000, Shards: []QueueShard{
			{Shard: 0, Batches: 2, Bytes: 100, Oldest: 0.3}, {Shard: 1},
		}},
		Locks:    []Lock{{Shard: 0, Holder: "a", Held: &held}, {Shard: 1}},
		Postgres: Postgres{Up: true, Migrated: true},
	}
}

func TestEverySituationHasItsSentence(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(r *Report)
		state    State
		sentence string
		runbook  string // of the first problem
	}{
		{"idle", func(*Report) {}, OK, "Books exact and up to date.", ""},
		{"at work", func(r *Report) { r.Behind = 0.42 }, OK, "Books exact and 0.4 s behind.", ""},
		{"just in time", func(r *Report) { r.Behind = 10 }, OK, "Books exact and 10 s behind.", ""},
		{"late", func(r *Report) { r.Behind = 10.6 }, Warn, "The books are 11 s behind.", runBehind},
		{"a minute late", func(r *Report) { r.Behind = 60 }, Warn, "The books are 60 s behind.", runBehind},
		{"very late", func(r *Report) { r.Behind = 61 }, Bad, "The books are 61 s behind.", runBehind},
		{"for ever late", func(r *Report) { r.Behind = 30 * 3600 }, Bad, "The books are 30 h behind.", runBehind},
		{"Postgres away", func(r *Report) { r.Postgres = Postgres{} }, Bad,
			"Postgres can't be reached. Updates are taken and kept until it is back.", runPostgres},
		{"no tables", func(r *Report) { r.Postgres.Migrated = false }, Bad,
			"The tables are missing in Postgres. Updates are taken and kept until they are there.", runPostgres},
		{"an old primary", func(r *Report) { r.Postgres.OldPrimary = "a:5432, which is of timeline 1, while there is 2" }, Bad,
			"A server of DATABASE_URL takes writes although another was promoted: a:5432, which is of timeline 1, while there is 2. " +
				"Nothing is written there.", runOldPrimary},
		{"Redis away", func(r *Report) { r.Queue = Queue{Used: true}; r.Locks = nil; r.Instances[0].Fallback = true }, Warn,
			"Redis can't be reached. Instances write directly to Postgres, one at a time.", runFallback},
		{"one batch in a Redis switched off", func(r *Report) { r.Queue, r.Locks = Queue{Left: 1}, nil }, Bad,
			"1 batch lies in the Redis that is switched off, and not in the books.", runFallback},
		{"batches in a Redis switched off", func(r *Report) { r.Queue, r.Locks = Queue{Left: 7}, nil }, Bad,
			"7 batches lie in the Redis that is switched off, and not in the books.", runFallback},
		{"an instance is denied", func(r *Report) { r.Instances[1].Denied = "push to shard 0: NOPERM xadd" }, Bad,
			"Instance b is denied access: push to shard 0: NOPERM xadd.", runDenied},
		{"instances are denied", func(r *Report) {
			r.Instances[0].Denied, r.Instances[1].Denied = "WRONGTYPE", "WRONGTYPE"
			r.Locks[0].Holder, r.Queue.Shards[0].Oldest, r.Behind = "", 75, 75
		}, Bad, "Each of 2 instances (a, b) is denied access: WRONGTYPE. There are 2 more problems.", runDenied},
		{"one that is gone was denied", func(r *Report) { r.Instances[0].Alive, r.Instances[0].Denied = false, "WRONGTYPE" }, Warn,
			"Instance a is not heard from. It held nothing when it was last heard from.", runGone},
		{"a Redis that is a replica", func(r *Report) {
			r.Queue.Replica, r.Behind, r.Instances[0].Fallback, r.Instances[1].Alive = true, 11, true, false
		}, Warn, "Redis answers READONLY: it is a replica. Instances write directly to Postgres, and what is queued waits. There is another problem.", runFallback},
		{"a Redis that is a replica for long", func(r *Report) {
			r.Queue.Replica, r.Behind, r.Instances[0].Alive, r.Instances[1].Alive = true, 61, false, false
		}, Bad, "Redis answers READONLY: it is a replica. Instances write directly to Postgres, and what is queued waits. There is another problem.", runFallback},
		{"clocks a minute apart", func(r *Report) { r.Instances[0].RedisAhead, r.Instances[1].PostgresAhead = 60, -60 }, OK, "Books exact and up to date.", ""},
		{"a clock that is behind", func(r *Report) { r.Instances[1].PostgresAhead = 61 }, Warn,
			"The clock of instance b is 61 s behind that of Postgres.", runClocks},
		{"a clock that is far behind", func(r *Report) { r.Instances[1].PostgresAhead = 3 * 3600 }, Bad,
			"The clock of instance b is 3 h behind that of Postgres.", runClocks},
		{"a clock that is a year ahead of both", func(r *Report) {
			r.Instances[0].PostgresAhead, r.Instances[0].RedisAhead = -365*24*3600, -365*24*3600
		}, Bad, "The clock of instance a is 8760 h ahead of that of Postgres and 8760 h ahead of that of Redis.", runClocks},
		{"a Redis that is ahead of all", func(r *Report) { r.Instances[0].RedisAhead, r.Instances[1].RedisAhead = 90, 90 }, Warn,
			"The clock of instance a is 90 s behind that of Redis. That of b differs, too.", runClocks},
		{"one that is gone had a wrong clock", func(r *Report) { r.Instances[0].Alive, r.Instances[0].RedisAhead = false, 9e9 }, Warn,
			"Instance a is not heard from. It held nothing when it was last heard from.", runGone},
		{"no Redis wanted", func(r *Report) { r.Queue, r.Locks = Queue{}, nil }, OK, "Books exact and up to date.", ""},
		{"one instance without Redis", func(r *Report) { r.Instances[1].Fallback = true }, Warn,
			"Instance b writes directly to Postgres, although Redis answers here.", runFallback},
		{"nobody flushes yet", func(r *Report) { r.Locks[0].Holder = "" }, OK, "Books exact and up to date.", ""},
		{"nobody flushes", func(r *Report) { r.Locks[0].Holder = ""; r.Queue.Shards[0].Oldest = 12 }, Warn,
			"Nobody flushes shard 0, where 2 batches have waited in the queue for up to 12 s.", runNoHolder},
		{"nobody flushes for long", func(r *Report) {
			r.Locks[1].Holder = ""
			r.Queue.Shards[1] = QueueShard{Shard: 1, Batches: 1, Bytes: 1, Oldest: 75}
		}, Bad,
			"Nobody flushes shard 1, where 1 batch has waited in the queue for up to 75 s.", runNoHolder},
		{"somebody flushes slowly", func(r *Report) { r.Queue.Shards[0].Oldest = 75; r.Behind = 75 }, Bad,
			"The books are 75 s behind.", runBehind},
		{"queue at 80 %", func(r *Report) { r.Queue.Shards[0].Bytes = 800 }, OK, "Books exact and up to date.", ""},
		{"queue over 80 %", func(r *Report) { r.Queue.Shards[0].Bytes = 820 }, Warn, "The queue of shard 0 is 82 % full.", runQueueBound},
		{"queue full", func(r *Report) { r.Queue.Shards[1].Bytes = 1010 }, Bad, "The queue of shard 1 is 101 % full.", runQueueBound},
		{"queue without a bound", func(r *Report) { r.Queue.MaxBytes = 0; r.Queue.Shards[0].Bytes = 1 << 40 }, OK, "Books exact and up to date.", ""},
		{"one in quarantine", func(r *Report) { r.Quarantined = 1 }, Warn, "1 entry waits in quarantine for a decision.", runQuarantined},
		{"a conflict", func(r *Report) { r.Quarantined, r.Conflicts = 1, 1 }, Warn,
			"1 conflict of ids waits in quarantine for a decision: a client has used ids twice, for different things.", runConflicts},
		{"conflicts among others", func(r *Report) { r.Quarantined, r.Conflicts = 3, 2 }, Warn, "1 entry waits in quarantine for a decision. There is another problem.", runQuarantined},
		{"some in quarantine", func(r *Report) { r.Quarantined = 7 }, Warn, "7 entries wait in quarantine for a decision.", runQuarantined},
		{"a loss", func(r *Report) { r.LostBatches, r.LastLost = 1, r.AsOf.Add(-time.Minute) }, Bad,
			"1 batch lost: missing from the books for good, unless found.", runLost},
		{"losses of long ago", func(r *Report) { r.LostBatches, r.LastLost = 3, r.AsOf.Add(-25*time.Hour) }, Warn,
			"3 batches lost: missing from the books for good, unless found.", runLost},
		{"audit passed", func(r *Report) { r.LastAudit = &Audit{At: r.AsOf, OK: true} }, OK, "Books exact and up to date.", ""},
		{"audit failed", func(r *Report) { r.LastAudit = &Audit{At: r.AsOf.Add(-5 * time.Minute)} }, Bad,
			"The books did not add up at the last audit, 5 min ago.", runAudit},
		{"one gone", func(r *Report) { r.Instances[0].Alive = false; r.Instances[0].Fallback = true }, Warn,
			"Instance a is not heard from. It held nothing when it was last heard from.", runGone},
		{"both gone", func(r *Report) {
			for i := range r.Instances {
				r.Instances[i].Alive, r.Instances[i].HeldUpdates = false, 5
			}
		}, Warn, "Each of 2 instances (a, b) is not heard from. When last heard from: 10 updates held.", runGone},
		{"no instance lives", func(r *Report) { r.InstancesComplete, r.Instances = true, nil }, Bad,
			"No instance is heard from: updates are taken by none, and what is queued is flushed by none.", runGone},
		{"all instances are gone", func(r *Report) {
			r.InstancesComplete, r.Instances = true, []Instance{{Instance: "a"}}
		}, Bad, "No instance is heard from: updates are taken by none, and what is queued is flushed by none. There is another problem.", runGone},
		{"one instance isn't ready", func(r *Report) { r.Instances[1].NotReady = "the role may not" }, Warn,
			"Instance b is not ready: the role may not.", runNotReady},
		{"no instance is ready", func(r *Report) {
			r.Instances[0].NotReady, r.Instances[1].NotReady = "applying 00007_x.sql, for 75s", "waiting for another program"
		}, Bad, "Each of 2 instances (a, b) is not ready: applying 00007_x.sql, for 75s.", runNotReady},
		{"Postgres refuses", func(r *Report) { r.Postgres = Postgres{Refusal: "permission denied (SQLSTATE 42501)"} }, Bad,
			"Postgres refuses: permission denied (SQLSTATE 42501). Updates are taken and kept until it doesn't.", runPostgres},
		{"Redis refuses", func(r *Report) { r.Queue, r.Locks = Queue{Used: true, Refusal: "NOPERM no"}, nil }, Warn,
			"Redis refuses: NOPERM no. Instances write directly to Postgres, one at a time.", runFallback},
		{"Redis away, for a command", func(r *Report) { r.Queue, r.Locks, r.Instances = Queue{Used: true}, nil, nil }, Bad,
			"Redis can't be reached from here, so no instance is known of.", runFallback},
		{"Redis refuses, for a command", func(r *Report) {
			r.Queue, r.Locks, r.Instances = Queue{Used: true, Refusal: "NOPERM no"}, nil, nil
		}, Bad, "Redis refuses: NOPERM no. So no instance is known of.", runFallback},
		{"a shard of Redis away", func(r *Report) {
			r.Queue.Shards[1] = QueueShard{Shard: 1, Error: "timeout"}
			r.Queue.Error, r.Instances[1].Fallback = "timeout", true
		}, Warn, "Redis doesn't answer for shard 1 of 2: it is written directly to Postgres.", runFallback},
		{"some shards of Redis away, for a command", func(r *Report) {
			r.Queue.Shards = append(r.Queue.Shards, QueueShard{Shard: 2, Error: "x"}, QueueShard{Shard: 3, Error: "x", Refusal: "NOPERM no"})
			r.Instances = nil
		}, Bad, "Redis doesn't say which instances there are, though it answers otherwise. There is another problem.", runFallback},
		{"a command, and some shards of Redis refuse", func(r *Report) {
			r.Queue.Shards = append(r.Queue.Shards, QueueShard{Shard: 2, Error: "x"}, QueueShard{Shard: 3, Error: "x", Refusal: "NOPERM no"})
		}, Warn, "Redis refuses (NOPERM no) for shards 2, 3 of 4: these are written directly to Postgres.", runFallback},
		{"memory near its bound", func(r *Report) { r.Instances[1].Keys = 801 }, Warn,
			"Instance b has its memory for distinct keys more than 80 % full.", runMemoryBound},
		{"journal failing", func(r *Report) { r.Instances[0].JournalFailing = true }, Warn, "Instance a can't write its journal.", runJournal},
		{"a deadlock", func(r *Report) { r.Instances[0].LastDeadlock = r.AsOf.Add(-4 * time.Minute) }, Warn,
			"Instance a had a deadlock in Postgres within the last 5 minutes, and tried again.", runDeadlocks},
		{"a deadlock of before", func(r *Report) { r.Instances[0].LastDeadlock = r.AsOf.Add(-6 * time.Minute) }, OK, "Books exact and up to date.", ""},
		{"many of one kind", func(r *Report) {
			r.Instances = slices.Repeat([]Instance{{Instance: "x", Alive: true, JournalFailing: true}}, 5)
		}, Warn, "Each of 5 instances (x, x, x, …) can't write its journal.", runJournal},
		{"the gravest goes first", func(r *Report) { r.Quarantined, r.Behind = 1, 61 }, Bad,
			"The books are 61 s behind. There is another problem.", runBehind},
		{"three at once", func(r *Report) { r.Quarantined, r.Behind, r.Instances[0].Alive = 1, 11, false }, Warn,
			"1 entry waits in quarantine for a decision. There are 2 more problems.", runQuarantined},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := well()
			c.change(&r)
			diagnose(&r)
			if r.State != c.state || r.Sentence != c.sentence {
				t.Errorf("%s: %q\nwant %s: %q", r.State, r.Sentence, c.state, c.sentence)
			}
			if c.runbook == "" != (len(r.Problems) == 0) || len(r.Problems) > 0 && r.Problems[0].Runbook != c.runbook {
				t.Errorf("the problems are %+v, want first %s", r.Problems, c.runbook)
			}
			for _, p := range r.Problems {
				if p.Do == "" || p.Severity != Warn && p.Severity != Bad {
					t.Errorf("a problem without a way out: %+v", p)
				}
			}
		})
	}
}

func TestEveryProblemLeadsToASectionOfTheRunbook(t *testing.T) {
	source, err := os.ReadFile("diagnose.go")
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^## (\w+)$`).FindAllSubmatch(runbook, -1) {
		sections[strings.ToLower(string(heading[1]))] = true
	}
	anchors := regexp.MustCompile(`(?m)^\trun\w+ += "(\w+)"$`).FindAllSubmatch(source, -1)
	if len(anchors) < 12 {
		t.Errorf("only %d anchors were found in diagnose.go", len(anchors))
	}
	for _, anchor := range anchors {
		if !sections[string(anchor[1])] {
			t.Errorf("docs/runbook.md has no section #%s", anchor[1])
		}
	}
}
