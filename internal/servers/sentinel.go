package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// SentinelConfig says how to start a private Redis Sentinel.
type SentinelConfig struct {
	// Dir keeps the settings, the log and the password. It is made when it isn't there.
	Dir string
	// Port on 127.0.0.1; 0 finds a free one.
	Port int
	// Password is what the sentinel wants of clients and of other sentinels, which must have the
	// same; "" makes a random one.
	Password string
	// Name is what clients call the master, and Master the server that is master at the first
	// start.
	Name   string
	Master *Redis
	// Quorum is how many sentinels must see the master down.
	Quorum int
	// DownAfter is how long the master may be silent.
	DownAfter time.Duration
	// Log gets what the sentinel logs, which goes to sentinel.log in Dir in any case. The sentinel
	// waits for it to write. nil: nobody.
	Log io.Writer
}

// Sentinel is a running private Redis Sentinel.
type Sentinel struct {
	server
	password string
}

// StartSentinel starts a Redis Sentinel, which is redis-server under another name, and returns when
// it answers. What it has learned is kept in its directory from one start to the next. When ctx is
// done first, nothing is left running. Errors: as StartRedis.
func StartSentinel(ctx context.Context, c SentinelConfig) (*Sentinel, error) {
	program, ok := findProgram("redis-server", "valkey-server")
	if !ok {
		return nil, missing("redis-server", "redis-server", "redis")
	}
	dir, err := makeDir(c.Dir, nil)
	if err != nil {
		return nil, fmt.Errorf("directory of sentinel: %w", err)
	}
	s := &Sentinel{}
	conf, pidFile := filepath.Join(dir, "sentinel.conf"), filepath.Join(dir, "sentinel.pid")
	s.server = server{
		name:       "sentinel",
		dir:        dir,
		logWriter:  c.Log,
		stopSignal: syscall.SIGTERM,
		prepare: func(ctx context.Context) error {
			if s.password, err = password(dir, c.Password); err != nil {
				return err
			}
			return endOrphans(ctx, filepath.Base(program), pidFile, dir, syscall.SIGTERM)
		},
		command: func(port int) (*exec.Cmd, error) {
			// The sentinel writes into its settings what it learns.
			if _, err := os.Stat(conf); errors.Is(err, fs.ErrNotExist) {
				err = writeFile(conf, c.conf(dir, pidFile, s.password, port), nil)
				if err != nil {
					return nil, err
				}
			}
			cmd := exec.Command(program, conf, "--sentinel")
			cmd.Dir = dir
			return cmd, nil
		},
		probe: func(ctx context.Context, port int) error { return pingRedis(ctx, port, s.password) },
	}
	if err := s.launch(ctx, c.Port); err != nil {
		return nil, err
	}
	return s, nil
}

// Password returns the password of the default user.
func (s *Sentinel) Password() string { return s.password }

func (c *SentinelConfig) conf(dir, pidFile, password string, port int) string {
	return strings.Join([]string{
		"bind " + loopback,
		fmt.Sprint("port ", port),
		fmt.Sprintf("dir %q", dir),
		fmt.Sprintf("pidfile %q", pidFile),
		"requirepass " + password,
		"sentinel sentinel-pass " + password,
		fmt.Sprintf("sentinel monitor %s %s %d %d", c.Name, loopback, c.Master.Port(), c.Quorum),
		fmt.Sprintf("sentinel auth-pass %s %s", c.Name, c.Master.Password()),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", c.Name, c.DownAfter.Milliseconds()),
		fmt.Sprintf("sentinel failover-timeout %s 6000", c.Name),
		"daemonize no",
		"",
	}, "\n")
}
