package terminal

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

const (
	barWidth    = 24
	redrawEvery = 100 * time.Millisecond
	lineEvery   = 10 * time.Second // where nothing can be redrawn
)

// Progress tells how far long work is: by a bar that is redrawn on a terminal, by a line every ten seconds elsewhere.
// Its methods may be called by several goroutines.
type Progress struct {
	out   *Output
	name  string
	unit  string
	now   func() time.Time
	begun time.Time

	mu          sync.Mutex // guards what follows
	done, total int64
	last        time.Time // when it was written
	shown       bool
}

// Progress begins to tell of work. The unit is a plural: "batches". A total of 0 is not known yet.
func (o *Output) Progress(name, unit string, total int64) *Progress {
	return o.progress(name, unit, total, time.Now)
}

func (o *Output) progress(name, unit string, total int64, now func() time.Time) *Progress {
	p := &Progress{out: o, name: name, unit: unit, total: total, now: now, begun: now()}
	p.last = p.begun
	return p
}

// Set says how much is done, and of how much. It writes only now and then.
func (p *Progress) Set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	every := lineEvery
	if p.out.redraws {
		every = redrawEvery
	}
	now := p.now()
	if now.Sub(p.last) < every {
		return
	}
	p.last, p.shown = now, true
	line := p.line(now.Sub(p.begun))
	if p.out.redraws {
		p.out.Block(line)
	} else {
		p.out.Print(line)
	}
}

// End takes the bar away.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown && p.out.redraws {
		p.out.Block()
	}
}

func (p *Progress) line(took time.Duration) string {
	rate := float64(p.done) / max(took.Seconds(), 0.001)
	if p.total <= 0 {
		return fmt.Sprintf("%s: %d %s, %s", p.name, p.done, p.unit, took.Round(time.Second))
	}
	left := "?"
	if rate > 0 {
		left = (time.Duration(float64(p.total-p.done)/rate*float64(time.Second)) + time.Second/2).Truncate(time.Second).String()
	}
	text := fmt.Sprintf("%d of %d %s, %.3g/s, %s left", p.done, p.total, p.unit, rate, left)
	if !p.out.redraws {
		return p.name + ": " + text
	}
	return p.name + " " + Bar(float64(p.done)/float64(p.total), barWidth) + " " + text
}

// Bar returns a bar of this many characters and its brackets, filled to the fraction.
func Bar(fraction float64, width int) string {
	full := int(math.Round(min(max(fraction, 0), 1) * float64(width)))
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}
