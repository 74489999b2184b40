package main

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func TestOnlyAYesConfirms(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "yes\n": true, " YES \n": true, "y": true,
		"": false, "\n": false, "n\n": false, "yep\n": false, "no\ny\n": false, "\x04": false,
	} {
		p := &program{stdin: strings.NewReader(answer), stderr: io.Discard}
		if got := p.confirm(t.Context(), "Sure? "); got != want {
			t.Errorf("%q: %t", answer, got)
		}
	}
}

func TestCtrlCEndsAQuestion(t *testing.T) {
	in, out := io.Pipe()
	defer out.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &program{stdin: in, stderr: io.Discard}
	if p.confirm(ctx, "Sure? ") {
		t.Error("a question that was broken off is taken for answered")
	}
}

func TestNeitherAFileNorAPipeNorDevNullIsATerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, stream := range []any{null, file, r, strings.NewReader("y\n"), nil} {
		if isTerminal(stream) {
			t.Errorf("%v is taken for a terminal", stream)
		}
	}
	// /dev/ptmx is a terminal wherever there is one.
	if terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err == nil {
		defer terminal.Close()
		if !isTerminal(terminal) {
			t.Error("a terminal isn't taken for one")
		}
	}
}

func TestWhatIsInQuarantineCantMoveTheCursor(t *testing.T) {
	q := &pgstore.Quarantined{ID: 1, Kind: "row", State: "open", Reason: "odd\x1b[2J\n\ttext", Book: "team_member",
		Entity: &spend.Entity{Type: spend.TeamMember, ID: "u\x1b", TeamID: "t\u202e"}}
	var text strings.Builder
	w := entryTable(&text)
	if err := w.row(q); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if strings.Count(text.String(), "\n") != 1 || strings.ContainsAny(text.String(), "\x1b\t\u202e") ||
		!strings.Contains(text.String(), `team_member "u\x1b" of team "t\u202e"`) {
		t.Errorf("%q", text.String())
	}
}
