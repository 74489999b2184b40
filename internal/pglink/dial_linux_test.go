package pglink

import (
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A machine that vanishes can't be had on one machine: that the system is asked to notice must do.
func TestTheSystemIsAskedToNoticeAMachineThatHasVanished(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	config, err := pgx.ParseConfig("postgres://" + listener.Addr().String() + "/db")
	if err != nil {
		t.Fatal(err)
	}
	Prepare(config, config.ConnString(), Options{})
	conn, err := config.DialFunc(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for name, option := range map[string]struct{ number, want int }{
			"TCP_USER_TIMEOUT": {tcpUserTimeout, int(vanishedAfter.Milliseconds())},
			"TCP_KEEPIDLE":     {syscall.TCP_KEEPIDLE, 2},
			"TCP_KEEPINTVL":    {syscall.TCP_KEEPINTVL, 1},
		} {
			got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option.number)
			if err != nil || got != option.want {
				t.Errorf("%s is %d, want %d: %v", name, got, option.want, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
