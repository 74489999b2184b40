package main

import (
	"strings"
	"testing"
)

func TestConnectionsThatAreNotProtectedAreNamedAtTheStart(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for text, warned := range map[string]bool{
		"postgres://u:p@db.example/x": true, "postgresql://u:p@10.0.0.5:5432/x": true, "host=db.example user=u": true, "postgres://u@localhost,db.example/x": true,
		"postgres://u:p@db.example/x?sslmode=verify-full": false, "postgres://u:p@db.example/x?sslmode=disable": false, "host=db.example sslmode=require": false,
		"postgres://u:p@localhost/x": false, "postgres://u@127.0.0.1:1/x": false, "postgres://u@[::1]/x": false, "postgres:///x?host=/run/postgresql": false, "": false,
	} {
		lines := (&settings{DatabaseURL: text}).unprotected()
		if (len(lines) == 1 && strings.HasPrefix(lines[0], "DATABASE_URL has no sslmode")) != warned || len(lines) > 1 {
			t.Errorf("%s: %q", text, lines)
		}
	}
	for text, warned := range map[string]bool{
		"redis://cache.example:6379": true, "redis://:p@10.0.0.5/0": true, "redis://localhost:1,cache.example:1": true, "redis://u:p@ss@cache.example?db=1": true,
		"redis+sentinel://u:p@a.example:1,localhost:1/NAME": true, "redis-sentinel://a.example/NAME": true, "redis+sentinel://localhost:1/NAME": false,
		"rediss+sentinel://a.example/NAME": false, "rediss://cache.example": false, "redis://localhost:6379/0": false, "redis://:p@127.0.0.1": false, "redis://[::1]:6379": false, "unix:///run/redis.sock": false, "": false,
	} {
		for _, used := range []bool{true, false} {
			lines := (&settings{RedisURL: text, UseRedis: used}).unprotected()
			scheme, _, _ := strings.Cut(text, "://")
			if (len(lines) == 1 && strings.HasPrefix(lines[0], "REDIS_URL is "+scheme+"://:") && strings.Contains(lines[0], "use rediss")) != (warned && used) {
				t.Errorf("%s, used %t: %q", text, used, lines)
			}
			if strings.Contains(strings.Join(lines, ""), "example") {
				t.Errorf("%s is repeated: %q", text, lines)
			}
		}
	}
	t.Setenv("PGSSLMODE", "verify-full")
	if lines := (&settings{DatabaseURL: "postgres://u@db.example/x"}).unprotected(); len(lines) > 0 {
		t.Errorf("with PGSSLMODE: %q", lines)
	}
}
