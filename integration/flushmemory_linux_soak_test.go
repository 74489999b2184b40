//go:build soak && linux

package integration

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// maxFlushMemory is what docs/reliability.md says of a flusher, in MiB of the whole process.
const maxFlushMemory = 512

// The process that flushes has at most the memory that the documents say, also where every series
// has 64 tags of 256 bytes each that no other series has: batches of the largest size, more of them
// than one flush may have, and more behind a gap than one walk may keep. It is the command flush,
// which does nothing else, so that all of the memory is the flusher's.
func TestSoakAFlusherHasTheMemoryThatTheDocumentsSay(t *testing.T) {
	const batches, waiting, perBatch = 12, 12, 300
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	for n := range batches {
		producer := spend.NewProducerID(time.Now())
		b := s.longTags(producer, n*perBatch, perBatch, 1)
		s.enqueue(producer, 1, b.Bytes())
		if n == 0 {
			t.Logf("a batch of %d series has %d bytes", perBatch, len(b.Bytes()))
		}
	}
	behind := spend.NewProducerID(time.Now())
	for n := range uint64(waiting) {
		b := s.longTags(behind, (batches+int(n))*perBatch, perBatch, n+2)
		s.enqueue(behind, n+2, b.Bytes())
	}

	p := launch(t, "flush", s.variables(), "flush")
	if status := p.waitFor(4 * time.Minute); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	peak := p.cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10
	t.Logf("the flusher had %d MiB at most", peak)
	if peak > maxFlushMemory {
		t.Errorf("the flusher had %d MiB at most, want %d", peak, maxFlushMemory)
	}
	if booked := s.number("SELECT sum(updates)::bigint FROM spendflush.producers"); booked != batches*perBatch {
		t.Errorf("%d updates are booked, want %d", booked, batches*perBatch)
	}
}

// longTags returns a batch of so many series, each with its own 64 tags of 256 bytes.
func (s *stack) longTags(producer spend.ProducerID, first, n int, sequence uint64) *spend.Batch {
	one, err := spend.ParseAmount("1")
	if err != nil {
		s.t.Fatal(err)
	}
	c := spend.Counters{Spend: one, SuccessfulRequests: 1}
	var totals []spend.TotalRow
	var rollups []spend.RollupRow
	add := func(e spend.Entity) {
		totals = append(totals, spend.TotalRow{Key: e.Key(), Entity: e, Counters: c})
	}
	for i := first; i < first+n; i++ {
		series := spend.Series{APIKey: fmt.Sprint("key-", i)}
		add(spend.Entity{Type: spend.APIKey, ID: series.APIKey})
		for tag := range spend.MaxTags {
			name := fmt.Sprintf("%06d-%03d-", i, tag)
			series.Tags = append(series.Tags, name+strings.Repeat("t", spend.MaxIDBytes-len(name)))
			add(spend.Entity{Type: spend.Tag, ID: series.Tags[tag]})
		}
		rollups = append(rollups, spend.NewRollupRow(&series, 490_000, c))
	}
	slices.SortFunc(totals, func(a, b spend.TotalRow) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(rollups, func(a, b spend.RollupRow) int { return a.Key.Compare(b.Key) })
	h := spend.Header{Books: s.books(), Producer: producer, Sequence: sequence, SealedAt: time.Now()}
	return spend.NewBatch(h, totals, rollups)
}
