//go:build unix

package main

import "syscall"

// fileLimit returns how many files the process may have open. (Go has raised the soft limit to the
// hard one.)
func fileLimit() (int64, bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<40 {
		return 0, false
	}
	return int64(limit.Cur), true
}
