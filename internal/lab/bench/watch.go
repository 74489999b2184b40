package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// watch looks at what the connections of instances do.
type watch struct {
	every  time.Duration
	cancel context.CancelFunc
	ended  chan error

	looks               float64
	connections         float64 // the most at once
	busy, mostBusy      float64 // seen at work: in all, and the most at once
	lockWaits, logWaits float64
}

const look = `
SELECT count(*), count(*) FILTER (WHERE state = 'active'),
    count(*) FILTER (WHERE state = 'active' AND wait_event IN ('transactionid', 'tuple')),
    count(*) FILTER (WHERE state = 'active' AND (wait_event_type = 'LWLock' AND wait_event LIKE 'WAL%' OR wait_event_type = 'IO' AND wait_event LIKE 'WAL%'))
FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'spendflush'`

// watch begins to look this often.
func (p *env) watch(ctx context.Context, every time.Duration) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{every: every, cancel: cancel, ended: make(chan error, 1)}
	go func() { w.ended <- w.run(ctx, p) }()
	return w
}

func (w *watch) run(ctx context.Context, p *env) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		if err := w.sample(ctx, conn); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("look at the connections: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.every):
		}
	}
}

func (w *watch) sample(ctx context.Context, conn *pgx.Conn) error {
	var all, busy, lockWaits, logWaits float64
	if err := conn.QueryRow(ctx, look).Scan(&all, &busy, &lockWaits, &logWaits); err != nil {
		return err
	}
	w.looks++
	w.connections, w.mostBusy = max(w.connections, all), max(w.mostBusy, busy)
	w.busy += busy
	w.lockWaits += lockWaits
	w.logWaits += logWaits
	return nil
}

// end ends it. What it saw can be read then.
func (w *watch) end() error {
	w.cancel()
	return <-w.ended
}
