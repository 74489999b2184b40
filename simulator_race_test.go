//go:build race

package spendflush

import "testing"

// The race detector makes schedules ten times slower, and finds nothing in them: only one goroutine
// runs at a time.
const simDefaultRuns = 60

// withoutRace skips what "make test" runs once more without the race detector.
func withoutRace(t *testing.T) {
	t.Skip("one goroutine runs at a time here: \"make test\" runs it without the race detector")
}
