package redisqueue_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/lockers/redislock"
	"github.com/spendflush/spendflush/queues/diskjournal"
	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

var (
	theseBooks = spend.BooksID{1, 15: 2}
	otherBooks = spend.BooksID{3, 15: 4}
)

func TestQueuesOfTwoBooksHaveNothingToDoWithEachOther(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	root := open(t, client, retaining)
	a, b := root.Of(theseBooks), root.Of(otherBooks).Of(otherBooks)
	batch := queuetest.NewBatch(queuetest.NewProducer(), 0, 1, 1)
	id := push(t, a, batch, "")
	if stats := look(t, b); stats.Batches != 0 {
		t.Errorf("the other books' queue has %+v", stats)
	}
	ack(t, b, []spend.EntryID{id})
	if stats := look(t, a); stats.Batches != 1 {
		t.Errorf("an ack of the other books took it out: %+v", stats)
	}
	ack(t, a, []spend.EntryID{id})
	if n := requeue(t, b); n != 0 {
		t.Errorf("the other books requeue %d entries", n)
	}
	if n := requeue(t, a); n != 1 {
		t.Errorf("%d entries come back", n)
	}
	locker := testserver.Must(redislock.New(client, "pod", redislock.Options{}))
	lease, err := locker.Of(theseBooks).Acquire(t.Context(), "flush/0")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release(t.Context())
	// In a Cluster all of a shard lies in one slot.
	tag := "{spendflush:" + theseBooks.String() + ":0}:"
	keys := client.Keys(t.Context(), "*").Val()
	if len(keys) < 3 || !slices.Contains(keys, tag+"lock:flush") || slices.ContainsFunc(keys, func(k string) bool { return !strings.HasPrefix(k, tag) }) {
		t.Errorf("keys are %q", keys)
	}
}

func TestNotesOfBooksAreReplacedAndRead(t *testing.T) {
	journal, err := diskjournal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	for name, notes := range map[string]spend.BooksNotes{"Redis": open(t, dial(t, testserver.Redis(t)), redisqueue.Options{}), "Journal": journal} {
		t.Run(name, func(t *testing.T) {
			want := func(place string, id spend.BooksID) {
				t.Helper()
				if got, err := notes.NotedBooks(t.Context(), place); got != id || err != nil {
					t.Errorf("%s: %s, %v; want %s", place, got, err, id)
				}
			}
			want("p", spend.BooksID{})
			for _, note := range []struct {
				place string
				id    spend.BooksID
			}{{"p", otherBooks}, {"pp", otherBooks}, {"p", theseBooks}, {"p", theseBooks}} {
				if err := notes.NoteBooks(t.Context(), note.place, note.id); err != nil {
					t.Fatal(err)
				}
			}
			want("p", theseBooks)
			want("pp", otherBooks)
			want("q", spend.BooksID{})
		})
	}
}

func TestAQueueShowsTheWitnessOfOneDatabaseOnly(t *testing.T) {
	client := dial(t, testserver.Redis(t))
	q := open(t, client, redisqueue.Options{}).Of(theseBooks)
	type list = []byte
	show := func(want, own list) {
		t.Helper()
		var witnesses []spend.Witness
		for _, n := range own {
			witnesses = append(witnesses, spend.Witness{15: n})
		}
		shown, err := q.ShowWitnesses(t.Context(), witnesses)
		var got list
		for _, w := range shown {
			got = append(got, w[15])
		}
		if !slices.Equal(got, want) || err != nil {
			t.Errorf("%v: shown is %v, want %v; %v", own, got, want, err)
		}
	}
	show(list{2, 1}, list{2, 1})
	show(list{3, 2, 1}, list{3, 2, 1}) // the same database, later
	show(nil, list{9, 1})              // a copy made after the first
	show(nil, nil)
	show(list{3, 2, 1}, list{2, 1}) // an instance that can't ask the database any more
	show(nil, list{9, 2, 1})        // a copy made after the second
	show(list{3, 2, 1}, list{3, 2, 1})
	keys := client.Keys(t.Context(), "*").Val()
	if len(keys) != 1 {
		t.Fatalf("keys are %q", keys)
	}
	if left := client.PTTL(t.Context(), keys[0]).Val(); left <= 0 || left.Seconds() > 10 {
		t.Errorf("it is shown for %s", left)
	}
	client.Del(t.Context(), keys[0])
	show(list{9, 1}, list{9, 1}) // no other is at work any more
	client.Set(t.Context(), keys[0], strings.Repeat("x", 1<<20), 0)
	show(nil, list{9, 1})
}
