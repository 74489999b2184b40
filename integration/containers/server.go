package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/redis/go-redis/v9"
	"github.com/testcontainers/testcontainers-go"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

const (
	engineTimeout = 10 * time.Second // for the engine to say that it is there
	startTimeout  = 2 * time.Minute  // an image may have to be pulled first
	stopTimeout   = 30 * time.Second
	pollInterval  = 50 * time.Millisecond
)

// The images only have to hold the programs: what runs in them is said here. "$@" are the
// arguments.
const (
	runPostgres = `set -eu
for bin in /usr/lib/postgresql/*/bin; do PATH="$bin:$PATH"; done
umask 077
printf %s "$PASSWORD" >/tmp/password
initdb --pgdata=/tmp/data --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 \
	--encoding=UTF8 --locale=C --no-sync
echo 'host all all all scram-sha-256' >>/tmp/data/pg_hba.conf
exec postgres -D /tmp/data "$@" -c listen_addresses='*' -c port=5432 -c unix_socket_directories=`
	runRedis = `exec "$(command -v redis-server || command -v valkey-server)" --port 6379 --requirepass "$PASSWORD" --save '' --appendonly no --dir /tmp "$@"`
)

// engineAnswers returns why there is no Docker engine.
func engineAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	provider, err := testcontainers.NewDockerProvider()
	if err == nil {
		err = provider.Health(ctx)
	}
	if err != nil {
		return fmt.Errorf("no Docker engine answers: %w", err)
	}
	return nil
}

func postgres() *server {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(testserver.PostgresSettings)) {
		args = append(args, "-c", name+"="+testserver.PostgresSettings[name])
	}
	return &server{
		variable: testserver.PostgresVariable,
		image:    imageName("SPENDFLUSH_TEST_POSTGRES_IMAGE", "postgres:17-alpine"),
		user:     "postgres", // refuses to run as root
		script:   runPostgres,
		args:     args,
		port:     5432,
		url: func(host, password string) string {
			u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", password), Host: host,
				Path: "/postgres", RawQuery: "sslmode=disable"}
			return u.String()
		},
		probe: func(ctx context.Context, url string) error {
			conn, err := pgx.Connect(ctx, url)
			if err != nil {
				return err
			}
			return conn.Close(ctx)
		},
	}
}

func redisServer() *server {
	return &server{
		variable: testserver.RedisVariable,
		image:    imageName("SPENDFLUSH_TEST_REDIS_IMAGE", "redis:7-alpine"),
		script:   runRedis,
		args:     []string{"--databases", strconv.Itoa(testserver.RedisDatabases)},
		port:     6379,
		url: func(host, password string) string {
			u := url.URL{Scheme: "redis", User: url.UserPassword("", password), Host: host, Path: "/0"}
			return u.String()
		},
		probe: func(ctx context.Context, url string) error {
			o, err := redis.ParseURL(url)
			if err != nil {
				return err
			}
			o.MaxRetries = -1
			client := redis.NewClient(o)
			defer client.Close()
			return client.Ping(ctx).Err()
		},
	}
}

func imageName(variable, fallback string) string {
	if name := os.Getenv(variable); name != "" {
		return name
	}
	return fallback
}

// server is a server in a container.
type server struct {
	variable string // by which the tests find it
	image    string
	user     string // "" is the image's
	script   string // for sh, with args as its "$@" and the password in its environment
	args     []string
	port     int // inside
	url      func(host, password string) string
	probe    func(ctx context.Context, url string) error
}

// start runs the container and returns the server's URL, and what ends it, when the server answers.
// After an error nothing is left running.
func (c *server) start(ctx context.Context) (url string, stop func(context.Context) error, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	password := rand.Text() // the port may be open to the network
	ctr, err := testcontainers.Run(ctx, c.image,
		testcontainers.WithEntrypoint(append([]string{"sh", "-c", c.script, "sh"}, c.args...)...),
		testcontainers.WithEnv(map[string]string{"PASSWORD": password, "LC_ALL": "C"}),
		testcontainers.WithExposedPorts(strconv.Itoa(c.port)+"/tcp"),
		testcontainers.WithConfigModifier(func(config *container.Config) {
			config.User = c.user
			config.WorkingDir = "/tmp"
		}),
	)
	stop = func(ctx context.Context) error {
		// There is nothing to save.
		return testcontainers.TerminateContainer(ctr, testcontainers.StopContext(ctx), testcontainers.StopTimeout(0))
	}
	if err != nil {
		err = fmt.Errorf("run: %w", err)
	} else if url, err = c.await(ctx, ctr, password); err != nil {
		err = fmt.Errorf("%w; its log:\n%s", err, logOf(ctr))
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		return "", nil, errors.Join(fmt.Errorf("%s: %w", c.image, err), stop(ctx))
	}
	return url, stop, nil
}

// await returns the server's URL when it answers there.
func (c *server) await(ctx context.Context, ctr testcontainers.Container, password string) (string, error) {
	host, err := ctr.Host(ctx)
	if err != nil {
		return "", err
	}
	if err := checkRunning(ctx, ctr); err != nil {
		return "", err
	}
	port, err := ctr.MappedPort(ctx, strconv.Itoa(c.port)+"/tcp")
	if err != nil {
		return "", err
	}
	url := c.url(net.JoinHostPort(host, port.Port()), password)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := c.probe(ctx, url)
		if err == nil {
			return url, nil
		}
		if err := checkRunning(ctx, ctr); err != nil {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for an answer: %w (last: %w)", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func checkRunning(ctx context.Context, ctr testcontainers.Container) error {
	state, err := ctr.State(ctx)
	if err != nil {
		return err
	}
	if !state.Running {
		return fmt.Errorf("ended with status %d while it was starting", state.ExitCode)
	}
	return nil
}

// logOf returns the end of the container's log.
func logOf(ctr testcontainers.Container) string {
	const maxBytes = 4096
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	log, err := ctr.Logs(ctx)
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	content, err := io.ReadAll(log)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-maxBytes):])
}
