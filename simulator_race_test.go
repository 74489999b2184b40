//go:build race

package spendflush

// The race detector makes schedules ten times slower, and finds nothing in them: only one goroutine runs at a time.
const simDefaultRuns = 60
