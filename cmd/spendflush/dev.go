package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/internal/trust"
)

func (p *program) devCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "dev", Short: "Run an instance on a Postgres and Redis of its own, without any settings", Args: noArgs,
		Long: `Run an instance on a private Postgres and Redis, started from the programs on this machine. The data stays in the
directory and is there again at the next start. The directory must belong to you or root, as must those above it, and only
its owner may write to it; another one is refused. Ctrl-C drains and stops everything that was started. SPENDFLUSH_ settings
count, but DATABASE_URL and REDIS_URL must not be set.

Exit status: 0 stopped with everything drained, 1 something could not be started or drained, 2 wrong usage or settings.`,
		Example: `  spendflush dev
  SPENDFLUSH_LISTEN=127.0.0.1:0 spendflush dev --dir ~/books`,
		RunE: func(c *cobra.Command, _ []string) error {
			ignoreSIGPIPE()
			return p.dev(c.Context(), dir)
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the data (default: /var/lib/spendflush/dev for root, else spendflush/dev in $XDG_DATA_HOME or ~/.local/share)")
	_ = c.MarkFlagDirname("dir") // it is there
	return c
}

// devDir is where the data of dev is kept: for root a place that the user that Postgres runs as can
// reach. Without a home there is no place that is this user's own.
func devDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/spendflush/dev", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) { // others are to be ignored
		return filepath.Join(dir, "spendflush", "dev"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", errors.New("dev has no place for its data: neither HOME nor XDG_DATA_HOME is set to an absolute path; name a directory with --dir")
	}
	return filepath.Join(home, ".local", "share", "spendflush", "dev"), nil
}

const serverStopTimeout = 30 * time.Second

func (p *program) dev(ctx context.Context, dir string) (err error) {
	set, err := load(p.environ, 0)
	if err != nil {
		return err
	}
	if set.DatabaseURL != "" || set.RedisURL != "" {
		return usageError{errors.New("dev uses a Postgres and Redis of its own: unset DATABASE_URL and REDIS_URL, or use serve")}
	}
	if dir == "" {
		if dir, err = devDir(); err != nil {
			return usageError{err}
		}
	}
	fmt.Fprintf(p.stdout, "starting Postgres and Redis in %s …\n", dir)
	postgres, err := servers.StartPostgres(ctx, servers.PostgresConfig{Dir: filepath.Join(dir, "postgres")})
	if err != nil {
		return refusedDir(fmt.Errorf("start Postgres: %w", err))
	}
	defer func() { err = errors.Join(err, stopServer(postgres.Stop)) }()
	redis, err := servers.StartRedis(ctx, servers.RedisConfig{Dir: filepath.Join(dir, "redis"),
		Args: []string{"--appendonly", "yes", "--maxmemory-policy", "noeviction"}})
	if err != nil {
		return refusedDir(fmt.Errorf("start Redis: %w", err))
	}
	defer func() { err = errors.Join(err, stopServer(redis.Stop)) }()
	set.DatabaseURL, set.RedisURL = postgres.URL("postgres"), redis.URL()
	if os.Getenv("SPENDFLUSH_DRAIN_DELAY") == "" {
		set.DrainDelay = 0 // no balancer is before it
	}
	if set.LogLevel == slog.LevelInfo && os.Getenv("SPENDFLUSH_LOG_LEVEL") == "" {
		set.LogLevel = slog.LevelWarn // what arrives is shown instead
	}
	watchCtx, stopWatch := context.WithCancel(ctx)
	watched := make(chan struct{})
	started := false
	err = p.serve(ctx, set, newLogger(set, p.stderr), func(in *instance) {
		started = true
		p.greet(in)
		go func() {
			defer close(watched)
			p.watch(watchCtx, in)
		}()
	})
	stopWatch()
	if started {
		<-watched
	}
	if err == nil {
		fmt.Fprintln(p.stdout, "everything is in Postgres; stopped")
	}
	return err
}

// refusedDir makes a usage error of one about a directory that isn't this user's own.
func refusedDir(err error) error {
	if _, ok := errors.AsType[*trust.Error](err); ok {
		return usageError{err}
	}
	return err
}

func stopServer(stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), serverStopTimeout)
	defer cancel()
	return stop(ctx)
}

func (p *program) greet(in *instance) {
	url := in.url()
	auth := ""
	if in.set.keys.Any() {
		auth = ` -H "Authorization: Bearer $TOKEN"`
	}
	fmt.Fprintf(p.stdout, `
spendflush is ready at %[1]s

Book what a request cost:
  curl%[2]s -H 'Content-Type: application/json' '%[1]s/v1/updates?ack=committed' -d '{"spend": 0.000123, "api_key": "key-1", "team_id": "team-1", "model": "gpt-5"}'

See how all stands: %[1]s/ in a browser, or
  curl%[2]s %[1]s/v1/pipeline

See what it adds up to:
  curl%[2]s %[1]s/v1/spend/team/team-1
  curl%[2]s '%[1]s/v1/usage?group_by=model'

Ctrl-C drains and stops. What arrives:
`, url, auth)
}

// watch prints a line whenever updates have arrived or were committed.
func (p *program) watch(ctx context.Context, in *instance) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var last string
	for {
		s := in.pipeline.Status()
		held, amount := s.Open.Updates, s.Open.Amount
		for _, shard := range s.Shards {
			held += shard.Updates
			amount = amount.Add(shard.Amount)
		}
		line := fmt.Sprintf("updates accepted: %d, all committed", s.Accepted)
		if held > 0 {
			line = fmt.Sprintf("updates accepted: %d; on their way: %d of %s dollars", s.Accepted, held, amount)
		}
		if s.Accepted > 0 && line != last {
			fmt.Fprintf(p.stdout, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			last = line
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
