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

// Progress tells how far long work is: by a bar that is redrawn on a terminal, by a line every ten
// seconds elsewhere. Its methods may be called by several goroutines.
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
	now := p.now()
	if now.Sub(p.last) < p.out.every() {
		return
	}
	p.last, p.shown = now, true
	p.out.show(p.line(now.Sub(p.begun)))
}

// every is how often progress is shown.
func (o *Output) every() time.Duration {
	if o.redraws {
		return redrawEvery
	}
	return lineEvery
}

// show shows the progress anew.
func (o *Output) show(line string) {
	if o.redraws {
		o.Block(line)
	} else {
		o.Print(line)
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

// Clock tells of work of which only the time is known: how long it has gone on and, unless about is
// 0, how long it is expected to. It does so until the returned function is called, which must be,
// and takes the last line away.
func (o *Output) Clock(name string, about time.Duration) (stop func()) {
	begun := time.Now()
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(o.every())
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				o.Block()
				return
			case <-ticker.C:
				o.show(o.clock(name, time.Since(begun), about))
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

func (o *Output) clock(name string, took, about time.Duration) string {
	text := fmt.Sprintf("%.0f s", took.Seconds())
	if about > 0 {
		text += fmt.Sprintf(" of about %.0f s", math.Ceil(about.Seconds()))
	}
	if about == 0 || !o.redraws {
		return name + ": " + text
	}
	return name + " " + Bar(took.Seconds()/about.Seconds(), barWidth) + " " + text
}

// Bar returns a bar of this many characters and its brackets, filled to the fraction.
func Bar(fraction float64, width int) string {
	full := int(math.Round(min(max(fraction, 0), 1) * float64(width)))
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}
