//go:build !race

package spendflush

const simDefaultRuns = 1000
