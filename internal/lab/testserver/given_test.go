package testserver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

var errLocal = errors.New("one of this machine was asked for")

// chosen lets a server be chosen with these settings.
func chosen(t *testing.T, of *shared, mode, given string) (url string, err error) {
	t.Helper()
	t.Setenv("SPENDFLUSH_TEST_SERVERS", mode)
	t.Setenv(of.variable, given)
	s := shared{name: of.name, variable: of.variable, inspect: of.inspect,
		local: func(context.Context) (string, error) { return "", errLocal }}
	s.start()
	return s.url, s.err
}

func TestWhatIsNamedIsUsedUnlessProgramsOfThisMachineAreAskedFor(t *testing.T) {
	url := NewRedis(t).URL()
	of := &shared{name: "Redis", variable: RedisVariable, inspect: inspectRedis}
	for _, c := range []struct{ mode, given, uses, says string }{
		{"", url, url, ""},
		{"auto", url, url, ""},
		{"docker", url, url, ""},
		{"local", url, "", errLocal.Error()},
		{"", "", "", errLocal.Error()},
		{"auto", "", "", errLocal.Error()},
		{"docker", "", "", "make containers"},
		{"remote", url, "", "auto, local and docker are allowed"},
		{"", "redis://127.0.0.1:1", "", "the one that " + RedisVariable + " names"},
	} {
		uses, err := chosen(t, of, c.mode, c.given)
		if uses != c.uses || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q with %q: %q is used, %v", c.mode, c.given, uses, err)
		}
	}
}

// Tests empty what they use: a Redis or Postgres in use must never be taken for one of theirs.
func TestANamedServerThatHoldsSomethingIsRefusedAndLeftAlone(t *testing.T) {
	given := NewRedis(t)
	o, err := redis.ParseURL(given.URL())
	if err != nil {
		t.Fatal(err)
	}
	o.DB = 3
	client := redis.NewClient(o)
	defer client.Close()
	if err := client.Set(t.Context(), "precious", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	url, err := chosen(t, &shared{name: "Redis", variable: RedisVariable, inspect: inspectRedis}, "", given.URL())
	if url != "" || err == nil || !strings.Contains(err.Error(), "db3") {
		t.Errorf("a Redis with a key in database 3: %q is used, %v", url, err)
	}

	postgres := NewPostgres(t).URL("postgres")
	of := &shared{name: "Postgres", variable: PostgresVariable, inspect: inspectPostgres}
	if url, err := chosen(t, of, "", postgres); url != postgres || err != nil {
		t.Errorf("an empty Postgres: %q is used, %v", url, err)
	}
	execute(t, postgres, "CREATE DATABASE precious")
	if url, err := chosen(t, of, "", postgres); url != "" || err == nil || !strings.Contains(err.Error(), "precious") {
		t.Errorf("a Postgres with another database: %q is used, %v", url, err)
	}
}
