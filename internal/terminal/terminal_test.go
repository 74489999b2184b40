package terminal

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestColoursAreForTerminalsOnlyAndHeedNoColorAndDumb(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0) // a terminal wherever there is one
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for _, c := range []struct {
		environ          []string
		redraws, colours bool
	}{
		{[]string{"TERM=xterm"}, true, true},
		{nil, true, true},
		{[]string{"TERM=xterm", "NO_COLOR=1"}, true, false},
		{[]string{"TERM=xterm", "NO_COLOR="}, true, true}, // set to nothing is not set
		{[]string{"NO_COLOR=1", "NO_COLOR="}, true, true},
		{[]string{"TERM=dumb"}, false, false},
	} {
		o := New(terminal, c.environ)
		if o.Redraws() != c.redraws || (o.Good("x") != "x") != c.colours {
			t.Errorf("%q: redraws %t, colours %q", c.environ, o.Redraws(), o.Good("x"))
		}
	}
	if o := New(&bytes.Buffer{}, []string{"TERM=xterm"}); o.Redraws() || o.Bad("x") != "x" {
		t.Error("a buffer is taken for a terminal")
	}
}

// screen shows what is on a terminal after the text: it knows the sequences that Output uses.
func screen(t *testing.T, text string) []string {
	t.Helper()
	lines, row := []string{""}, 0
	for text != "" {
		switch {
		case strings.HasPrefix(text, toLineAbove):
			if text = text[len(toLineAbove):]; row == 0 {
				t.Fatal("above the screen")
			}
			row--
		case strings.HasPrefix(text, clearBelow):
			text = text[len(clearBelow):]
			lines = append(lines[:row], "")
		case strings.HasPrefix(text, noWrap), strings.HasPrefix(text, wrap):
			text = text[len(wrap):]
		case text[0] == '\n':
			text = text[1:]
			if row++; row == len(lines) {
				lines = append(lines, "")
			}
		default:
			lines[row] += text[:1]
			text = text[1:]
		}
	}
	return lines
}

func TestABlockStaysBelowWhatIsPrinted(t *testing.T) {
	var b bytes.Buffer
	o := &Output{w: &b, redraws: true}
	o.Block("one", "two")
	o.Print("event 1")
	o.Block("three")
	o.Print("event 2")
	o.Block("four", "five", "six")
	o.Leave()
	o.Print("end")
	want := "event 1|event 2|four|five|six|end|"
	if got := strings.Join(screen(t, b.String()), "|"); got != want {
		t.Errorf("%s instead of %s", got, want)
	}
}

func TestProgressIsABarOnATerminalAndAFewLinesElsewhere(t *testing.T) {
	for _, redraws := range []bool{true, false} {
		var b bytes.Buffer
		now := time.Unix(0, 0)
		p := (&Output{w: &b, redraws: redraws}).progress("flush", "batches", 0, func() time.Time { return now })
		for i := range 41 {
			p.Set(int64(10*i), 1000)
			now = now.Add(500 * time.Millisecond)
		}
		shown := screen(t, b.String())
		want := "flush: 200 of 1000 batches, 20/s, 40s left|flush: 400 of 1000 batches, 20/s, 30s left|"
		if redraws {
			want = "flush [==========              ] 400 of 1000 batches, 20/s, 30s left|"
		}
		if got := strings.Join(shown, "|"); got != want {
			t.Errorf("%t:\n got %s\nwant %s", redraws, got, want)
		}
		p.End()
		if got := screen(t, b.String()); redraws && strings.Join(got, "") != "" {
			t.Errorf("the bar is left: %q", got)
		}
	}
}

func TestAClockTellsHowLongWorkGoesOn(t *testing.T) {
	for _, c := range []struct {
		redraws bool
		about   time.Duration
		want    string
	}{
		{false, 0, "audit: 10 s|audit: 20 s|"},
		{false, 40 * time.Second, "audit: 10 s of about 40 s|audit: 20 s of about 40 s|"},
		{true, 0, "audit: 21 s|"},
		{true, 42 * time.Second, "audit [============            ] 21 s of about 42 s|"},
		{true, 10 * time.Second, "audit [========================] 21 s of about 10 s|"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var b bytes.Buffer
			stop := (&Output{w: &b, redraws: c.redraws}).Clock("audit", c.about)
			time.Sleep(21*time.Second + time.Millisecond)
			synctest.Wait()
			if got := strings.Join(screen(t, b.String()), "|"); got != c.want {
				t.Errorf("%t, %s: %s instead of %s", c.redraws, c.about, got, c.want)
			}
			stop()
			if left := screen(t, b.String()); c.redraws && strings.Join(left, "") != "" {
				t.Errorf("left on the terminal: %q", left)
			}
		})
	}
}

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) { b.writes++; return 0, errors.New("gone") }

func TestNothingIsWrittenAfterAFailure(t *testing.T) {
	b := &broken{}
	o := New(b, nil)
	o.Print("x")
	o.Print("y")
	if b.writes != 1 || o.Err() == nil {
		t.Errorf("%d writes, %v", b.writes, o.Err())
	}
}

func TestABlockHigherThanTheTerminalIsCutSoThatItCanBeReplaced(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 4, Col: 80}); err != nil {
		t.Fatal(err)
	}
	o := New(terminal, []string{"TERM=xterm"})
	for n, want := range map[int]string{
		2: "1 2", 3: "1 2 3", 4: "1 2 … and 2 lines for which the terminal is too low", 5: "1 2 … and 3 lines for which the terminal is too low",
	} {
		o.Block(strings.Fields("1 2 3 4 5")[:n]...)
		if got := strings.Join(o.below, " "); got != want || o.Err() != nil {
			t.Errorf("of %d lines: %q, %v", n, got, o.Err())
		}
	}
}
