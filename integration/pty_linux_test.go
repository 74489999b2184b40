package integration

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spendflush/spendflush/spend"
)

// seated is a process that has a terminal. What it writes on it is its stdout.
type seated struct {
	*process
	keyboard *os.File
}

// launchOnTerminal is launch with a terminal of 30 lines for all three streams.
func launchOnTerminal(t testing.TB, variables []string, args ...string) *seated {
	t.Helper()
	master, terminal := openTerminal(t)
	p := prepare(t, binary, "spendflush "+strings.Join(args, " ")+" on a terminal", variables, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = terminal, terminal, terminal
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // Ctrl-C on it is for the process
	p.copied = make(chan struct{})
	t.Cleanup(func() {
		master.Close()
		<-p.copied
	})
	p.start()
	terminal.Close()
	go func() {
		defer close(p.copied)
		_, _ = io.Copy(&p.stdout, master) // EIO when the process has ended
	}()
	return &seated{p, master}
}

func openTerminal(t testing.TB) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 120})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		t.Fatal(err)
	}
	return master, terminal
}

func (s *seated) types(text string) {
	s.t.Helper()
	if _, err := s.keyboard.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

const (
	ctrlC   = "\x03"
	lineUp  = "\x1b[A"
	inGreen = "\x1b[32m"
)

func TestStatusIsRedrawnOnATerminalUntilCtrlC(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.startHeard("pod-0")
	for _, c := range []struct {
		variable          string
		redrawn, coloured bool
	}{{"TERM=xterm", true, true}, {"NO_COLOR=1", true, false}, {"TERM=dumb", false, false}} {
		p := launchOnTerminal(t, s.variables(c.variable), "status", "--watch=100ms")
		p.said(&p.stdout, "twice how things stand", func(string) bool {
			return strings.Count(p.stdout.String(), "Books exact and up to date.") >= 2
		})
		p.types(ctrlC)
		if status := p.wait(); status != 0 {
			t.Errorf("%s: exit status %d instead of 0", c.variable, status)
		}
		shown := p.stdout.String()
		if got := strings.Contains(shown, lineUp); got != c.redrawn {
			t.Errorf("%s: redrawn: %t\n%q", c.variable, got, shown)
		}
		if got := strings.Contains(shown, inGreen+"Books"); got != c.coloured {
			t.Errorf("%s: coloured: %t\n%q", c.variable, got, shown)
		}
		if !c.redrawn && strings.Contains(shown, "\x1b") {
			t.Errorf("%s: escape sequences: %q", c.variable, shown)
		}
	}
}

func TestDropAsksOnATerminalAndTakesOnlyAYes(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	store := s.openStore()
	s.setAside(store, s.handMade(spend.NewProducerID(time.Now()), 1, spent{"key", "1"}))
	for _, c := range []struct {
		answer string
		exit   int
		says   string
		open   int64
	}{
		{"\n", 1, "nothing was dropped", 1}, {"n\n", 1, "nothing was dropped", 1}, {ctrlC, 1, "nothing was dropped", 1}, {"y\n", 0, "1: dropped", 0},
	} {
		p := launchOnTerminal(t, s.variables(), "quarantine", "drop", "1")
		p.shows("Drop 1 entry, never to be applied? [y/N]")
		p.types(c.answer)
		if status := p.wait(); status != c.exit {
			t.Errorf("after %q: exit status %d instead of %d", c.answer, status, c.exit)
		}
		p.shows(c.says)
		if open := s.number("SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'"); open != c.open {
			t.Errorf("after %q: %d entries are open", c.answer, open)
		}
	}
}
