//go:build !linux

package pglink

import (
	"syscall"
	"time"
)

// giveUpAfter does nothing here: only keep-alives find out that a machine has vanished, once
// nothing is under way.
func giveUpAfter(time.Duration) func(network, address string, c syscall.RawConn) error { return nil }
