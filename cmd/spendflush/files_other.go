//go:build !unix

package main

// fileLimit returns how many files the process may have open; false: that isn't known here.
func fileLimit() (int64, bool) { return 0, false }
