package diskjournal

import (
	"testing"

	"github.com/spendflush/spendflush/queues/journaltest"
	"github.com/spendflush/spendflush/spend"
)

func TestADirectoryIsAJournal(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journaltest.Open {
		dir, last := t.TempDir(), (*Journal)(nil)
		t.Cleanup(func() { _ = last.Close() })
		return func(t *testing.T) spend.Journal {
			t.Helper()
			if last != nil {
				if err := last.Close(); err != nil {
					t.Fatal(err)
				}
			}
			j, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			last = j
			return j
		}
	})
}
