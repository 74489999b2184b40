package servers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// RedisConfig says how to start a private Redis.
type RedisConfig struct {
	// Dir keeps the data, the log and the password. It is made when it isn't there.
	Dir string
	// Port on 127.0.0.1; 0 finds a free one.
	Port int
	// Args are more arguments for redis-server: "--databases", "512". They win over our own
	// settings, which are an append-only file synced every second, no snapshots, and no eviction.
	Args []string
	// Password is set at the first start in this directory; "" makes a random one. Servers of one
	// cluster share theirs.
	Password string
	// Log gets what the server logs, which goes to redis.log in Dir in any case. The server waits
	// for it to write. nil: nobody.
	Log io.Writer
}

// Redis is a running private server.
type Redis struct {
	server
	password string // fixed by the first start
}

// StartRedis starts a Redis (or Valkey, where only that is installed) and returns when it answers.
// When ctx is done first, nothing is left running. Errors: *MissingError, *DirInUseError,
// *PortInUseError; *trust.Error if another account could have made or changed what is in Dir;
// ErrEnded with the end of the log, if the server refuses to start.
func StartRedis(ctx context.Context, c RedisConfig) (*Redis, error) {
	program, ok := findProgram("redis-server", "valkey-server")
	if !ok {
		return nil, missing("redis-server", "redis-server", "redis")
	}
	dir, err := makeDir(c.Dir, nil)
	if err != nil {
		return nil, fmt.Errorf("directory of redis: %w", err)
	}
	r := &Redis{}
	conf, pidFile := filepath.Join(dir, "redis.conf"), filepath.Join(dir, "redis.pid")
	r.server = server{
		name:       "redis",
		dir:        dir,
		logWriter:  c.Log,
		stopSignal: syscall.SIGTERM, // writes the append-only file
		prepare: func(ctx context.Context) error {
			if r.password == "" { // at a restart URL may be reading it
				secret, err := password(dir, c.Password)
				if err != nil {
					return err
				}
				r.password = secret
			}
			return endOrphans(ctx, filepath.Base(program), pidFile, dir, syscall.SIGTERM)
		},
		command: func(port int) (*exec.Cmd, error) {
			// Not as arguments: everybody on the machine can read those.
			if err := writeFile(conf, redisConf(dir, pidFile, r.password, port), nil); err != nil {
				return nil, err
			}
			cmd := exec.Command(program, append([]string{conf}, c.Args...)...)
			cmd.Dir = dir
			return cmd, nil
		},
		probe: func(ctx context.Context, port int) error { return pingRedis(ctx, port, r.password) },
	}
	if err := r.launch(ctx, c.Port); err != nil {
		return nil, err
	}
	return r, nil
}

// Password returns the password of the default user.
func (r *Redis) Password() string { return r.password }

// URL returns the URL of database 0, with the password.
func (r *Redis) URL() string { return redisURL(r.password, r.Port()) }

func redisURL(password string, port int) string {
	u := url.URL{Scheme: "redis", User: url.UserPassword("", password), Host: address(port), Path: "/0"}
	return u.String()
}

// pingRedis returns nil if a Redis with this password answers. It speaks the protocol itself:
// clients dial again and again and log it, and don't heed their context while they wait for a
// reply.
func pingRedis(ctx context.Context, port int, password string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintf(conn, "AUTH %s\r\nPING\r\n", password); err != nil {
		return err
	}
	replies := bufio.NewReader(conn)
	for _, want := range []string{"+OK\r\n", "+PONG\r\n"} {
		reply, err := replies.ReadString('\n')
		if err != nil {
			return err
		}
		if reply != want {
			return fmt.Errorf("it answers %q", reply)
		}
	}
	return nil
}

func redisConf(dir, pidFile, password string, port int) string {
	return strings.Join([]string{
		"bind " + loopback,
		fmt.Sprint("port ", port),
		fmt.Sprintf("dir %q", dir),
		fmt.Sprintf("pidfile %q", pidFile),
		"requirepass " + password,
		"masterauth " + password, // should it become a replica
		`save ""`,
		"appendonly yes",
		"appendfsync everysec",
		"maxmemory-policy noeviction",
		"daemonize no",
		"",
	}, "\n")
}
