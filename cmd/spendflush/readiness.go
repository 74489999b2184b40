package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/clocks"
	"github.com/spendflush/spendflush/migrations"
	"github.com/spendflush/spendflush/sql/pgstore"
)

const (
	// refuseAfter is how long updates are taken although the role may not make, or not read, the
	// tables. It leaves the owner time to migrate beside the start of new instances.
	refuseAfter = 30 * time.Second
	// checkEvery is how often the rights of the role are looked at.
	checkEvery = 5 * time.Second
)

// readiness is why this instance isn't ready, as far as that lies with Postgres. What it tells
// holds no secret: anyone may read it at /readyz. All methods are safe for concurrent use.
type readiness struct {
	log *slog.Logger

	mu       sync.Mutex // guards what follows; nothing slow runs under it
	migrated bool
	doing    string    // what is done, or waited for, to get there
	since    time.Time // when that began

	pipeline     *spendflush.Pipeline // says whether another database has the same books
	lacking      string               // what the role may not do; "" if it may do all
	lackingSince time.Time            // when that was noticed
}

func newReadiness(log *slog.Logger) *readiness {
	return &readiness{log: log, doing: "Postgres is not reached yet", since: time.Now()}
}

// does notes what is done or waited for. It is logged if it is new.
func (r *readiness) does(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doing == what {
		return
	}
	r.doing, r.since = what, time.Now()
	r.log.Info("database", "migration", what)
}

// isMigrated notes that the tables are as this program needs them.
func (r *readiness) isMigrated() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.migrated, r.lacking = true, ""
}

// lacks notes what the role may not do, "" if it may do all that is needed. It is logged if it is
// new.
func (r *readiness) lacks(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lacking == what {
		return
	}
	if r.lacking == "" {
		r.lackingSince = time.Now()
	}
	r.lacking = what
	if what == "" {
		r.log.Info("the role in Postgres has all rights that it needs again")
	} else {
		r.log.Error("this instance can't do its work", "why", what)
	}
}

// reason says why updates shouldn't be sent here, "" if they should.
func (r *readiness) reason() string {
	r.mu.Lock()
	pipeline := r.pipeline
	r.mu.Unlock()
	if pipeline != nil {
		if status := pipeline.Status(); status.TwoDatabases {
			return status.BooksTrouble
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.lacking != "":
		return r.lacking
	case !r.migrated:
		return fmt.Sprintf("the database is not reached and migrated yet: %s, for %s", r.doing, time.Since(r.since).Round(time.Second))
	}
	return ""
}

// watchBooks has it tell where another database has the same books as this one.
func (r *readiness) watchBooks(p *spendflush.Pipeline) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pipeline = p
}

// collector tells whether there is a reason.
func (r *readiness) collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spendflush_ready",
		Help: "1 if this instance can do its work; 0 while it waits for Postgres and its tables, or lacks rights there.",
	}, func() float64 {
		if r.reason() != "" {
			return 0
		}
		return 1
	})
}

// refusal says why updates are refused, nil if they are taken. Once an instance has been ready it
// takes them: it holds them until Postgres takes them in turn.
func (r *readiness) refusal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.migrated || r.lacking == "" || time.Since(r.lackingSince) < refuseAfter {
		return nil
	}
	return errors.New(r.lacking)
}

// migrate brings the schema up to date, and tries again until ctx ends, or the database is of a
// newer program or can't keep every text.
func (in *instance) migrate(ctx context.Context) error {
	r := in.readiness
	said := ""
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		applied, err := migrations.UpWith(ctx, in.set.DatabaseURL, migrations.Options{Tell: r.does})
		if err == nil {
			if len(applied) > 0 {
				in.log.Info("database migrated", "applied", len(applied))
			}
			r.isMigrated()
			return nil
		}
		if errors.Is(err, migrations.ErrNewer) || errors.Is(err, migrations.ErrEncoding) || ctx.Err() != nil {
			return err
		}

		switch {
		case errors.Is(err, migrations.ErrNotOwner):
			r.lacks("the tables are missing or older than this program, and its role may not change them: " +
				"run `spendflush migrate up` as the owner")
			pause = min(pause, checkEvery)
		case errors.Is(err, migrations.ErrNoRights):
			r.lacks("the role may not read the tables of spendflush: grant it the rights that docs/runbook.md lists under Roles")
			pause = min(pause, checkEvery)
		case errors.Is(err, pgstore.ErrStandby):
			r.does("the server is a standby, which takes no writes")
		default:
			r.does("Postgres can't be asked")
		}
		level := slog.LevelError
		if text := err.Error(); text == said {
			level = slog.LevelDebug
		} else {
			said = text
		}
		in.log.Log(ctx, level, "database can't be migrated; trying again", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// watchRights looks every few seconds whether the role may do what an instance does, until ctx
// ends. A right that was taken away would otherwise show only once it is needed, and only to the
// instance that flushes. What it asks also has the clock of Postgres.
func (in *instance) watchRights(ctx context.Context) {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		lookCtx, cancel := context.WithTimeout(ctx, checkEvery)
		answered := in.clocks.Asks(clocks.Postgres)
		lacking, now, err := in.store.Lacking(lookCtx)
		cancel()
		if err == nil {
			answered(now)
		}
		switch {
		case err != nil: // whether Postgres is away is told elsewhere
		case len(lacking) == 0:
			in.readiness.lacks("")
		default:
			in.readiness.lacks("the role in Postgres lacks rights: " + strings.Join(lacking, ", ") +
				"; grant what docs/runbook.md lists under Roles")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
