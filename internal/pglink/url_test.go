package pglink

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The pieces of the passwords below are sec, ret and 24. None of them may be shown.
func TestAPasswordThatIsNotEncodedIsToldHowToAndNotShown(t *testing.T) {
	for _, databaseURL := range []string{
		"postgres://user:sec@ret@host:5432/db",
		"postgres://user:sec/ret@host:5432/db",
		"postgres://user:24/ret@host/db",
		"postgresql://user:sec@24/ret@host/db",
		"postgres://user:sec%@host/db",
		"postgres://user:sec%zz@host/db",
		"postgres://user:sec ret@host/db",
		"postgres://user:24/sec?ret@host/db",
		"postgres://user:24?sec/ret@host/db",
	} {
		err := CheckURL(databaseURL)
		if err == nil {
			t.Errorf("%s is taken", databaseURL)
			continue
		}
		if text := strings.ToLower(err.Error()); !strings.Contains(text, "percent-encode") ||
			strings.Contains(text, "sec") || strings.Contains(text, "ret") || strings.Contains(text, "24") {
			t.Errorf("%s: %v", databaseURL, err)
		}
	}
}

func TestURLsThatCanBeReadAreTaken(t *testing.T) {
	for _, databaseURL := range []string{
		"postgres://localhost/db",
		"postgres:///db?host=/var/run/postgresql",
		"postgres://user@host/db",
		"postgres://user:s%40%2Fe@host:5432/db?sslmode=disable",
		"postgres://user:p@one:5432,two:5433/db?target_session_attrs=any",
		"postgres://user:p@[::1]:5432,[fe80::1]/db",
		"postgres://[::1]:5432/db",
		"postgres://host/db?user=me@server&password=p",
		"host=localhost user=a password='s@/e'",
		"",
	} {
		if err := CheckURL(databaseURL); err != nil {
			t.Errorf("%s: %v", databaseURL, err)
		}
	}
}

func TestWhatIsWrongWithAURLIsToldWithoutTheURL(t *testing.T) {
	for databaseURL, want := range map[string]string{
		"postgres://user:secret@host:none/db":                          "invalid port",
		"postgres://user:secret@host/db?target_session_attrs=whatever": "whatever",
		"host=h password=secret port=none":                             "invalid port",
	} {
		_, err := pgx.ParseConfig(databaseURL)
		if err == nil {
			t.Fatalf("%s is taken", databaseURL)
		}
		got := ParseError(err).Error()
		if strings.Contains(got, "secret") || strings.Contains(got, "host") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", databaseURL, got)
		}
	}
}

func TestOnlyAURLThatNamesTheTargetSaysSo(t *testing.T) {
	for databaseURL, want := range map[string]bool{
		"postgres://a,b/db":                                false,
		"postgres://u:target_session_attrs%3Dx@a,b/db":     false,
		"postgres://a,b/db?target_session_attrs=any":       true,
		"host=a,b target_session_attrs=any":                true,
		"target_session_attrs = standby host=a,b":          true,
		"host=a,b application_name=not_target_session_att": false,
	} {
		if got := saysTarget(databaseURL); got != want {
			t.Errorf("%s: %t", databaseURL, got)
		}
	}
	t.Setenv("PGTARGETSESSIONATTRS", "any")
	if !saysTarget("postgres://a,b/db") {
		t.Error("the environment isn't looked at")
	}
}
