// Package terminal writes for people: with colours and lines that are redrawn where there is a
// terminal, and plain lines everywhere else.
package terminal

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Is says whether the stream, which may be an Output, is a terminal. So are other devices, but not
// /dev/null.
func Is(stream any) bool {
	if o, ok := stream.(*Output); ok {
		stream = o.w
	}
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	stat, err := f.Stat()
	if err != nil || stat.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(stat, null)
}

// Output is where a command writes for people. Its methods may be called by several goroutines.
type Output struct {
	w       io.Writer
	redraws bool // it is a terminal whose cursor can be moved
	colours bool

	mu    sync.Mutex // guards what follows, and w
	below []string   // the lines of the block, which the cursor stands under
	err   error      // of the first write that failed
}

// New returns an output. It redraws if w is a terminal and TERM isn't "dumb"; it has colours if,
// besides, NO_COLOR is not set or empty (no-color.org). The variables are given as os.Environ does.
func New(w io.Writer, environ []string) *Output {
	redraws := Is(w) && Lookup(environ, "TERM") != "dumb"
	return &Output{w: w, redraws: redraws, colours: redraws && Lookup(environ, "NO_COLOR") == ""}
}

// Lookup returns the value that a variable has. The last one wins, as everywhere.
func Lookup(environ []string, name string) string {
	for _, variable := range slices.Backward(environ) {
		if value, found := strings.CutPrefix(variable, name+"="); found {
			return value
		}
	}
	return ""
}

// Redraws says whether lines can be replaced. Where they can't, write seldom.
func (o *Output) Redraws() bool { return o.redraws }

// Good returns the text in the colour of what is as it should be.
func (o *Output) Good(text string) string { return o.coloured("32", text) }

// Bad returns the text in the colour of what is wrong.
func (o *Output) Bad(text string) string { return o.coloured("1;31", text) }

// Warn returns the text in the colour of what should be looked at.
func (o *Output) Warn(text string) string { return o.coloured("33", text) }

// Strong returns the text so that it stands out.
func (o *Output) Strong(text string) string { return o.coloured("1", text) }

// Faint returns the text in a colour that is easily passed over.
func (o *Output) Faint(text string) string { return o.coloured("2", text) }

func (o *Output) coloured(code, text string) string {
	if !o.colours || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Print writes text and ends the line. A block stays below it.
func (o *Output) Print(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(append([]string{text}, o.below...), len(o.below))
}

// Write is Print for a caller that writes whole lines, such as a logger.
func (o *Output) Write(lines []byte) (int, error) {
	o.Print(strings.TrimSuffix(string(lines), "\n"))
	return len(lines), o.Err()
}

// Block replaces the block: lines that stay at the end and are written anew at each call. Of a
// block that is higher than the terminal the end is left out. Where nothing can be redrawn it does
// nothing.
func (o *Output) Block(lines ...string) {
	if !o.redraws {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	above := len(o.below)
	o.below = clip(lines, o.height())
	o.write(o.below, above)
}

// clip returns a copy of the lines that fits a terminal of this height, below which the cursor
// stands. 0 is not known.
func clip(lines []string, height int) []string {
	room := max(height-1, 1)
	if height == 0 || len(lines) <= room {
		return slices.Clone(lines)
	}
	shown := slices.Clone(lines[:room-1])
	return append(shown, fmt.Sprintf("… and %d lines for which the terminal is too low", len(lines)-len(shown)))
}

// height returns how many lines the terminal has, 0 if that isn't known.
func (o *Output) height() int {
	f, ok := o.w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
}

// Leave lets the block stand as it is: what is written next follows it.
func (o *Output) Leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.below = nil
}

// Err returns the error of the first write that failed. Later ones were not tried.
func (o *Output) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

const (
	toLineAbove = "\x1b[A"
	clearBelow  = "\r\x1b[J"
	clearRest   = "\x1b[K"
	noWrap      = "\x1b[?7l" // a line that is too long is cut: lines have to be counted
	wrap        = "\x1b[?7h"
)

// write writes lines over the last ones. In one go, so that it is never seen half done. The caller
// must hold mu.
func (o *Output) write(lines []string, over int) {
	if o.err != nil {
		return
	}
	var b bytes.Buffer
	if over > 0 {
		b.WriteString(strings.Repeat(toLineAbove, over) + clearBelow)
	}
	if len(o.below) > 0 {
		b.WriteString(noWrap)
	}
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	if len(o.below) > 0 {
		b.WriteString(wrap)
	}
	_, o.err = o.w.Write(b.Bytes())
}
