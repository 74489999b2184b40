package overview

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/spend"
)

// busy is a report of much that goes on.
func busy() *Report {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	held := 12.0
	r := &Report{
		AsOf: now, Behind: 0.4, InstancesComplete: true,
		Instances: []Instance{
			{Instance: "pod-a", Version: "v1", Alive: true, StartedAt: now.Add(-3 * time.Hour), HeldUpdates: 20, HeldAmount: spend.Dollars(2), Unconfirmed: 1, Behind: 0.4},
			{Instance: "pod-bb", Version: "v1", Alive: true, StartedAt: now.Add(-time.Minute)},
		},
		Queue: Queue{Used: true, Up: true, Batches: 3, Bytes: 12_345, MaxBytes: 256_000_000, Oldest: 0.3,
			Shards: []QueueShard{{Shard: 0, Batches: 3, Bytes: 12_345, Oldest: 0.3}, {Shard: 1}}},
		Locks: []Lock{{Shard: 0, Holder: "pod-a", Held: &held}, {Shard: 1}},
		Flushes: []Flush{{At: now.Add(-2 * time.Second), Instance: "pod-a", Path: "queue", Batches: 5, Rows: 40, Updates: 1, Amount: spend.Dollars(1), Seconds: 0.012},
			{At: now.Add(-time.Minute), Instance: "pod-bb", Path: "direct"}},
		Postgres:  Postgres{Up: true, Migrated: true, Version: "16.2", Connections: 9, MaxConnections: 100, Updates: 1200, Amount: spend.Dollars(7)},
		IDs:       IDs{Estimate: 1100, Bytes: 88_000, Window: 36 * 86400},
		LastAudit: &Audit{At: now.Add(-5 * time.Minute), OK: true, Took: 0.5},
	}
	diagnose(r)
	return r
}

func textOf(r *Report) string {
	return strings.Join(r.Text(terminal.New(&bytes.Buffer{}, nil)), "\n") + "\n"
}

func TestTheTextTellsOfAShardWhoseNodeIsAway(t *testing.T) {
	r := busy()
	r.Queue.Shards[1].Error, r.Queue.Error = "i/o timeout", "i/o timeout"
	diagnose(r)
	text := textOf(r)
	for _, want := range []string{
		"Redis doesn't answer for shard 1 of 2: it is written directly to Postgres.\n", "1      NOT REACHED     -        -       ?            -\n",
		"0      3               12.3 kB  0.3 s   pod-a        12 s\n",
		"queue         3 batches, 12.3 kB of 256.0 MB; NOT REACHED for every shard: i/o timeout\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestTheTextSaysAllInTablesUnderOneSentence(t *testing.T) {
	want := `Books exact and 0.4 s behind.

INSTANCE  STATE  HELD UPDATES  HELD DOLLARS  UNCONFIRMED  BEHIND  STARTED   VERSION
pod-a     alive  20            2             1 batch      0.4 s   3 h ago   v1
pod-bb    alive  0             0             0 batches    0.0 s   60 s ago  v1

SHARD  QUEUED BATCHES  SIZE     OLDEST  LOCK HOLDER  HELD FOR
0      3               12.3 kB  0.3 s   pod-a        12 s
1      0               0 B      -       nobody       -

queue         3 batches, 12.3 kB of 256.0 MB
last flush    2.0 s ago by pod-a, from the queue: 1 update of 1 dollars, 5 batches, 40 rows, in 0.012 s
Postgres      16.2, 9 of 100 connections
books         1200 updates of 7 dollars
ids           about 1100, 88.0 kB; an id counts once for 36 days
quarantine    nothing open
lost batches  none
last audit    the books added up, 5 min ago, in 0.5 s
`
	if got := textOf(busy()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestTheTextSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	r := busy()
	r.Quarantined, r.LostBatches, r.LastLost, r.LastAudit.OK = 1, 2, r.AsOf.Add(-time.Hour), false
	r.Instances[1].Alive, r.Instances[1].SeenAt = false, r.AsOf.Add(-7*time.Second)
	r.Instances[0].Fallback, r.Instances[0].JournalFailing = true, true
	diagnose(r)
	text := textOf(r)
	for _, want := range []string{
		r.Problems[0].What + " There are 5 more problems.\n", "BAD: 2 batches lost", "WARN: Instance pod-bb is not heard from",
		"/docs/runbook#spendflushauditfailed\n", "not heard from for 7.0 s", "alive, writes directly, can't write its journal",
		`1 entry open, see "spendflush quarantine list"`, "2, the last noticed 60 min ago", "THE BOOKS DID NOT ADD UP, 5 min ago",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	for _, p := range r.Problems {
		if !strings.Contains(text, p.What) || !strings.Contains(text, p.Do) {
			t.Errorf("%q is missing in\n%s", p.What, text)
		}
	}
	r = busy()
	r.Quarantined, r.Conflicts, r.IDs.Window = 3, 2, 3600
	diagnose(r)
	text = textOf(r)
	for _, want := range []string{"3 entries open, 2 conflicts of ids among them, see", "an id counts once for 1 h\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	r = busy()
	r.Postgres, r.Queue, r.Locks, r.Instances, r.InstancesComplete = Postgres{Error: "no route\nto host"}, Queue{Used: true, Error: "refused"}, nil, nil, false
	diagnose(r)
	text = textOf(r)
	for _, want := range []string{"Postgres can't be reached", "NOT REACHED: no route to host\n", "NOT REACHED: refused\n", "is known from Redis alone"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	for _, unknown := range []string{"books  ", "ids  ", "quarantine  ", "last audit  "} {
		if strings.Contains(text, unknown) {
			t.Errorf("%q is told although it isn't known:\n%s", unknown, text)
		}
	}
}

func TestNothingThatAnInstanceSaysMovesTheCursorOrBreaksATable(t *testing.T) {
	r := busy()
	r.Instances[0].Instance, r.Instances[0].Version = "a\x1b[2Jb", "v\t1\n"
	r.Locks[0].Holder = r.Instances[0].Instance
	r.Flushes[0].Instance = r.Instances[0].Instance
	r.Instances[0].Fallback = true
	diagnose(r)
	if text := textOf(r) + r.Line(); strings.ContainsAny(text, "\x1b\t") || strings.Count(text, "\n") != strings.Count(textOf(busy()), "\n")+2 {
		t.Errorf("%q", text)
	}
}

func TestTheLineHasTheSentenceAndTheNumbers(t *testing.T) {
	want := "2026-11-20T12:00:00Z ok: Books exact and 0.4 s behind. instances=2 held_updates=20 queued_batches=3 booked_updates=1200 quarantined=0 lost_batches=0"
	if got := busy().Line(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
