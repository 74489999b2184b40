package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/spend"
)

const (
	redrawEvery = 250 * time.Millisecond
	lineEvery   = 5 * time.Second // where nothing can be redrawn
	lookTimeout = 10 * time.Second
)

// watch shows the numbers while the traffic goes on.
type watch struct {
	d    *demo
	conn *pgx.Conn

	last     numbers
	rate     float64 // updates booked a second, smoothed
	lastTime time.Time
}

// numbers are what is shown.
type numbers struct {
	booked    int64
	amount    spend.Amount
	deadlocks int64
	behind    time.Duration // age of the oldest batch in the queue
	holder    string
	err       error // why some can't be told
}

func newWatch(ctx context.Context, d *demo) (*watch, error) {
	conn, err := pgx.Connect(ctx, d.postgres.URL(""))
	if err != nil {
		return nil, err
	}
	return &watch{d: d, conn: conn, lastTime: time.Now()}, nil
}

func (w *watch) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx)
}

// run shows the numbers until ctx ends.
func (w *watch) run(ctx context.Context) {
	every := lineEvery
	if w.d.out.Redraws() {
		every = redrawEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		n := w.sample(ctx)
		if ctx.Err() != nil {
			return
		}
		w.pace(n)
		if w.d.out.Redraws() {
			w.d.out.Block(w.block(n)...)
		} else {
			w.d.event("%s", w.line(n))
		}
		w.last = n
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *watch) sample(ctx context.Context) (n numbers) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	n = w.last // what can't be read stays as it was
	n.err = w.conn.QueryRow(ctx, `SELECT coalesce(sum(updates), 0)::bigint, coalesce(sum(amount), 0)::text,
		(SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) FROM spendflush.producers`).
		Scan(&n.booked, &n.amount, &n.deadlocks)
	if n.err != nil {
		return n
	}
	stats, err := w.d.redis.queue.Stats(ctx, 0)
	if err == nil {
		n.behind = 0
		if !stats.Oldest.IsZero() {
			n.behind = max(0, time.Since(stats.Oldest))
		}
		n.holder, err = w.d.redis.holder(ctx)
	}
	n.err = err
	return n
}

// pace smooths the rate over some seconds.
func (w *watch) pace(n numbers) {
	now := time.Now()
	passed := now.Sub(w.lastTime).Seconds()
	w.lastTime = now
	if passed > 0 {
		share := min(1, passed/3)
		w.rate += share * (float64(n.booked-w.last.booked)/passed - w.rate)
	}
}

// block is what stands below the events on a terminal.
func (w *watch) block(n numbers) []string {
	out, c := w.d.out, w.d.clients
	value := func(name, text string) string { return fmt.Sprintf("%-14s%s", name, text) }
	sent, committed := c.sent.Load(), c.answers.updates.Load()
	deadlocks := out.Good(count(n.deadlocks))
	if n.deadlocks > 0 {
		deadlocks = out.Bad(count(n.deadlocks))
	}
	behind := tenths(n.behind)
	if n.behind > 2*time.Second {
		behind = out.Warn(behind)
	}
	passed := min(time.Since(w.d.begun), w.d.Traffic)
	return []string{
		"",
		value("updates", fmt.Sprintf("%s sent, %s answered, %s in the books (%.0f a second)", count(sent), count(committed), count(n.booked), w.rate)),
		value("dollars", n.amount.String()+" in the books"),
		value("behind by", behind),
		value("deadlocks", deadlocks),
		value("sent again", fmt.Sprintf("%s requests; %s updates in them were in the books already", count(c.answers.unanswered.Load()+c.answers.refused.Load()), count(c.answers.repeats.Load()))),
		value("instances", w.row(n.holder)),
		value("page", w.d.page),
		value("", terminal.Bar(passed.Seconds()/w.d.Traffic.Seconds(), 30)+fmt.Sprintf(" %.0f of %.0f s; Ctrl-C compares now", passed.Seconds(), w.d.Traffic.Seconds())),
	}
}

// row shows every instance by its number.
func (w *watch) row(holder string) string {
	var words []string
	for _, in := range w.d.instances {
		word := fmt.Sprint(in.number)
		state := in.state()
		if state != "ready" {
			word += " " + state
		}
		if strings.HasPrefix(holder, fmt.Sprintf("instance-%d.", in.number)) {
			word += " has the lock"
		}
		switch {
		case state != "ready":
			word = w.d.out.Bad(word)
		case strings.HasSuffix(word, "lock"):
			word = w.d.out.Good(word)
		}
		words = append(words, word)
	}
	return strings.Join(words, " · ")
}

// line is a line of numbers where nothing can be redrawn.
func (w *watch) line(n numbers) string {
	c := w.d.clients
	return fmt.Sprintf("updates: %s sent, %s answered, %s in the books; behind by %s; deadlocks: %d; instances: %s",
		count(c.sent.Load()), count(c.answers.updates.Load()), count(n.booked), tenths(n.behind), n.deadlocks, w.row(n.holder))
}

// count writes a number so that its size can be seen.
func count(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
