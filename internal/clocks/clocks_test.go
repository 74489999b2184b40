package clocks

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

const year = 365 * 24 * time.Hour

// machine is one whose clocks a test turns.
type machine struct {
	at  reading
	log bytes.Buffer
	*Watch
}

func newMachine() *machine {
	m := &machine{at: reading{wall: time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)}}
	m.Watch = New(slog.New(slog.NewTextHandler(&m.log, nil)))
	m.Watch.now = func() reading { return m.at }
	m.Watch.last = m.at
	return m
}

// pass has time pass, and the wall clock be set by some more.
func (m *machine) pass(d, set time.Duration) {
	m.at.ran += d
	m.at.wall = m.at.wall.Add(d + set)
}

// said returns what was logged since the last call.
func (m *machine) said() string {
	defer m.log.Reset()
	return m.log.String()
}

func (m *machine) wantReport(t *testing.T, lines ...string) {
	t.Helper()
	said := m.said()
	if n := strings.Count(said, "\n"); n != len(lines) {
		t.Fatalf("%d lines are logged, want %d:\n%s", n, len(lines), said)
	}
	for _, line := range lines {
		if !strings.Contains(said, line) {
			t.Errorf("%q isn't logged:\n%s", line, said)
		}
	}
}

func TestAServersClockIsToldOnceAndOnceMoreWhenItIsRight(t *testing.T) {
	for _, off := range []time.Duration{year, -year, Bound + time.Second} {
		m := newMachine()
		ask := func(ahead time.Duration) {
			answered := m.Asks(Redis)
			m.pass(2*time.Second, 0)
			answered(m.at.wall.Add(ahead - time.Second)) // in the middle
			if got, ok := m.Ahead(Redis); !ok || got != ahead {
				t.Fatalf("ahead by %s, %t; want %s", got, ok, ahead)
			}
		}
		ask(Bound)
		m.wantReport(t)
		ask(off)
		m.wantReport(t, "level=WARN msg=\"the clock of this machine and that of a server differ")
		ask(off)
		ask(off / 2)
		if off.Abs() == year {
			m.wantReport(t, "server_is_ahead_by="+(off/2).String()) // it was set again
		} else {
			m.wantReport(t)
		}
		ask(0)
		m.wantReport(t, "agree again")
		ask(0)
		m.wantReport(t)
	}
}

func TestEachServerHasAClockOfItsOwn(t *testing.T) {
	m := newMachine()
	m.Note(Postgres, 2*time.Hour)
	m.Note(Redis, -3*time.Hour)
	m.wantReport(t, "server=postgres server_is_ahead_by=2h0m0s", "server=redis server_is_ahead_by=-3h0m0s")
	m.Note(Redis, 0)
	m.wantReport(t, "agree again\" server=redis")
	if got, _ := m.Ahead(Postgres); got != 2*time.Hour {
		t.Errorf("Postgres is ahead by %s", got)
	}
}

func TestAnAnswerThatTookLongSaysNothing(t *testing.T) {
	m := newMachine()
	answered := m.Asks(Postgres)
	m.pass(Bound, 0)
	answered(m.at.wall.Add(year))
	if _, ok := m.Ahead(Postgres); ok {
		t.Error("it is taken")
	}
	m.wantReport(t)
}

// The clock of this machine is set, and later set right, while no server answers.
func TestTheMachinesOwnClockIsToldWhenItIsSet(t *testing.T) {
	for _, set := range []time.Duration{year, -year} {
		m := newMachine()
		m.pass(time.Hour, 0) // nobody has looked for an hour
		m.Asks(Postgres)
		m.pass(5*time.Second, 100*time.Millisecond) // slewed
		m.Asks(Postgres)
		m.wantReport(t)
		m.pass(5*time.Second, set)
		m.Asks(Postgres)
		m.wantReport(t, "was set, or the machine was asleep: updates without a time are booked by what it says now\" by="+set.String())
		m.pass(5*time.Second, 0)
		m.Asks(Postgres)
		m.wantReport(t)
		m.pass(5*time.Second, -set)
		m.Asks(Postgres)
		m.wantReport(t, "by="+(-set).String())
	}
}

// While a server is asked the clock is set: the difference is that to the clock as it is then.
func TestAClockThatIsSetWhileAServerIsAskedIsComparedAsItIsThen(t *testing.T) {
	m := newMachine()
	right := m.at.wall
	answered := m.Asks(Postgres)
	m.pass(0, year)
	answered(right)
	if got, _ := m.Ahead(Postgres); got != -year {
		t.Errorf("Postgres is ahead by %s", got)
	}
}

func TestNoWatchIsNoWatch(t *testing.T) {
	var w *Watch
	w.Asks(Redis)(time.Now())
	w.Note(Redis, year)
	if _, ok := w.Ahead(Redis); ok {
		t.Error("it knows a clock")
	}
}
