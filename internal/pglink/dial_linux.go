package pglink

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall doesn't name.
const tcpUserTimeout = 0x12

// giveUpAfter bounds how long what was sent may stay unacknowledged by the other machine. Otherwise
// the system tries for a quarter of an hour, while a machine that has vanished is replaced within
// seconds. A server that is alive and slow acknowledges.
func giveUpAfter(d time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if network != "tcp4" && network != "tcp6" {
			return nil
		}
		// Where it can't be set, the connection is as good as before.
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
		})
	}
}
