package servers

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/trust"
)

// refused checks that the error names the path as one that another account could have made.
func refused(t *testing.T, what string, err error, path string) {
	t.Helper()
	e, ok := errors.AsType[*trust.Error](err)
	if !ok || e.Path != path {
		t.Errorf("%s: want a refusal of %s: %v", what, path, err)
	}
}

func TestADirectoryThatOthersCouldHaveFilledIsRefused(t *testing.T) {
	dir := tempDir(t)
	for _, name := range []string{"postgres", "redis"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700), os.Chmod(filepath.Join(dir, name), 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: filepath.Join(dir, "postgres")})
	refused(t, "postgres", err, filepath.Join(dir, "postgres"))
	_, err = StartRedis(t.Context(), RedisConfig{Dir: filepath.Join(dir, "redis")})
	refused(t, "redis", err, filepath.Join(dir, "redis"))
	_, err = StartPgBouncer(t.Context(), PgBouncerConfig{Dir: filepath.Join(dir, "redis"), Database: "postgres://localhost/x"})
	refused(t, "pgbouncer", err, filepath.Join(dir, "redis"))
	if _, err := os.Stat(filepath.Join(dir, "redis", "redis.conf")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written there: %v", err)
	}
}

func TestAPasswordThatOthersCanReadIsRefused(t *testing.T) {
	dir := filepath.Join(tempDir(t), "redis")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(passwordFile(dir), []byte("known\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	_, err := StartRedis(t.Context(), RedisConfig{Dir: dir})
	refused(t, "mode 0644", err, passwordFile(dir))
	if err := os.Chmod(passwordFile(dir), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := startRedis(t, RedisConfig{Dir: dir}); !strings.Contains(r.URL(), "known") {
		t.Error("the password that is there isn't taken")
	}
}

func TestLinksInADirectoryAreNeitherFollowedNorWrittenThrough(t *testing.T) {
	for name, isReplaced := range map[string]bool{"lock": false, "redis.log": false, "password": false, "redis.conf.new": true} {
		dir := filepath.Join(tempDir(t), "redis")
		victim := filepath.Join(filepath.Dir(dir), "victim")
		err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(victim, []byte("precious"), 0o600), os.Symlink(victim, filepath.Join(dir, name)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := StartRedis(t.Context(), RedisConfig{Dir: dir})
		if r != nil {
			stop(t, r)
		}
		if isReplaced && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !isReplaced {
			refused(t, name, err, filepath.Join(dir, name))
		}
		if content, err := os.ReadFile(victim); err != nil || string(content) != "precious" {
			t.Errorf("%s: what the link leads to has become %q, %v", name, content, err)
		}
	}
}

func TestPostgresRefusesDataThatIsALink(t *testing.T) {
	dir := filepath.Join(tempDir(t), "postgres")
	data := filepath.Join(dir, "data")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Symlink(t.TempDir(), data)); err != nil {
		t.Fatal(err)
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	refused(t, "data", err, data)
}
