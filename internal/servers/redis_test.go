package servers

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestRedisKeepsKeysAndPasswordFromOneStartToTheNext(t *testing.T) {
	dir := tempDir(t)
	first := startRedis(t, RedisConfig{Dir: dir})
	if err := client(t, first).Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	stop(t, first)
	second := startRedis(t, RedisConfig{Dir: dir, Port: first.Port()})
	if second.URL() != first.URL() {
		t.Error("the URL has changed")
	}
	if value, err := client(t, second).Get(t.Context(), "key").Result(); value != "value" || err != nil {
		t.Errorf("read %q, error %v", value, err)
	}
}

func TestAKilledRedisComesBackOnTheSamePort(t *testing.T) {
	r := startRedis(t, RedisConfig{Dir: tempDir(t), Args: []string{"--appendfsync", "no"}})
	url := r.URL()
	if err := client(t, r).Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if !isGone(t, r.PID()) {
		t.Error("it is alive")
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.URL() != url {
		t.Error("the URL has changed")
	}
	if value, err := client(t, r).Get(t.Context(), "key").Result(); value != "value" || err != nil {
		t.Errorf("read %q, error %v", value, err)
	}
}

func TestAPausedRedisAnswersAfterResume(t *testing.T) {
	r := startRedis(t, RedisConfig{Dir: tempDir(t)})
	c := client(t, r)
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error)
	go func() { answered <- c.Ping(t.Context()).Err() }()
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestNobodyGetsIntoRedisWithoutThePassword(t *testing.T) {
	r := startRedis(t, RedisConfig{Dir: tempDir(t)})
	c := redis.NewClient(&redis.Options{Addr: address(r.Port())})
	defer c.Close()
	if err := c.Ping(t.Context()).Err(); err == nil {
		t.Error("it answers without one")
	}
	// What everybody on the machine can read.
	out, err := exec.Command("ps", "-A", "-o", "args").Output()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte(r.password)) {
		t.Error("the password is among the arguments of a process")
	}
}

func TestAMissingRedisIsNamedWithTheCommandThatInstallsIt(t *testing.T) {
	t.Setenv("PATH", tempDir(t))
	_, err := StartRedis(t.Context(), RedisConfig{Dir: tempDir(t)})
	e, ok := errors.AsType[*MissingError](err)
	if !ok || e.Program != "redis-server" || e.Install == "" {
		t.Errorf("error %v, want a *MissingError", err)
	}
}

func TestADirectoryWithSpacesAndQuotesIsNoTrouble(t *testing.T) {
	dir := tempDir(t) + "/it's a \"dir\"\\"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	startRedis(t, RedisConfig{Dir: dir})
}
