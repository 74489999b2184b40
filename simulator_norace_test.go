//go:build !race

package spendflush

import "testing"

const simDefaultRuns = 1000

func withoutRace(*testing.T) {}
