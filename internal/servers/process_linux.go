package servers

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func setOrphanSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// children returns the children of a process, without those that have ended and weren't waited for.
func children(parent int) ([]int, error) {
	return find(func(p procStat) bool { return p.parent == parent })
}

// runningIn returns the processes of a program whose working directory is dir. The result is false
// if that can't be told on this system.
func runningIn(dir, program string) ([]int, bool, error) {
	want, err := os.Stat(dir)
	if err != nil {
		return nil, true, err
	}
	pids, err := find(func(p procStat) bool {
		if p.name != program {
			return false
		}
		cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", p.pid)) // follows the link
		return err == nil && os.SameFile(cwd, want)
	})
	return pids, true, err
}

// find returns the processes that match. Those that have ended and weren't waited for don't count.
func find(match func(procStat) bool) ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		p, err := parseStat(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if p.state != 'Z' && p.state != 'X' && match(p) {
			pids = append(pids, p.pid)
		}
	}
	return pids, nil
}

// procStat is what we want of /proc/PID/stat.
type procStat struct {
	pid    int
	name   string // the first 15 bytes
	state  byte
	parent int
}

// parseStat takes /proc/PID/stat apart: "123 (any (name) here) S 1 …".
func parseStat(content []byte) (p procStat, err error) {
	open, end := bytes.IndexByte(content, '('), bytes.LastIndexByte(content, ')')
	if open < 0 || end < open {
		return p, fmt.Errorf("no name in %q", content)
	}
	p.name = string(content[open+1 : end])
	if p.pid, err = strconv.Atoi(string(bytes.TrimSpace(content[:open]))); err != nil {
		return p, err
	}
	fields := bytes.Fields(content[end+1:])
	if len(fields) < 2 {
		return p, fmt.Errorf("no parent in %q", content)
	}
	p.state = fields[0][0]
	p.parent, err = strconv.Atoi(string(fields[1]))
	return p, err
}
