//go:build unix && !linux

package servers

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

func setOrphanSignal(*syscall.SysProcAttr, syscall.Signal) {}

// children returns the children of a process, without those that have ended and weren't waited for.
func children(parent int) ([]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "stat=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var pids []int
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var pid, ppid int
		var state string
		if _, err := fmt.Sscan(lines.Text(), &pid, &ppid, &state); err != nil {
			return nil, fmt.Errorf("ps: %q: %w", lines.Text(), err)
		}
		if ppid == parent && !strings.HasPrefix(state, "Z") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// runningIn returns the processes of a program whose working directory is dir. The result is false
// if that can't be told on this system. A server that still runs then keeps the next one from
// starting, which says so.
func runningIn(string, string) ([]int, bool, error) { return nil, false, nil }
