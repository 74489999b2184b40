package sql

import (
	"errors"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// couple returns the URLs of a primary with the tables, and of a standby that follows it.
func couple(t *testing.T) (primary, standby *servers.Postgres) {
	t.Helper()
	primary = testserver.NewPostgres(t)
	migrate(t, primary.URL(""))
	return primary, testserver.NewStandby(t, primary.URL(""))
}

func host(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// withHost returns the URL with another address, and what it says of the target.
func withHost(t *testing.T, databaseURL, address, target string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = address
	if target != "" {
		u.RawQuery += "&target_session_attrs=" + target
	}
	return u.String()
}

func TestWhatAStandbySaysIsTakenForAuditsAndNeverForMarks(t *testing.T) {
	primary, standby := couple(t)
	front := faultproxy.New(t, host(t, standby.URL("")))
	// The URL lets the store come to a standby, as a pooler may whatever the URL says.
	s := open(t, withHost(t, primary.URL(""), front.Addr(), "any"), Options{})
	p := newProducer()
	f := flushOf(p, 1, 1, request{spendflush.Series{APIKey: "k"}, noon, one("1")})

	if _, err := s.Marks(t.Context(), 0, []spendflush.ProducerID{p}); !errors.Is(err, ErrStandby) {
		t.Errorf("Marks: %v, want %v", err, ErrStandby)
	}
	if report, err := s.Audit(t.Context()); err != nil || !report.OK {
		t.Errorf("Audit: %+v, %v", report, err)
	}

	// Two connections to the standby are idle when the first one's error comes.
	idle, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	idle.Release()
	other.Release()
	if err := s.Apply(t.Context(), f); err == nil || Refusal(err) != "" {
		t.Errorf("Apply on a standby: %v, want one that is worth another try", err)
	}

	// From now on the address leads to the primary. Connections that are open lead where they led before.
	front.Lead(host(t, primary.URL("")))
	before := s.Stats().Retries
	apply(t, s, f)
	if n := s.Stats().Retries - before; n > 1 {
		t.Errorf("%d tries were made on connections to the standby", n)
	}
	if _, err := s.Marks(t.Context(), 0, []spendflush.ProducerID{p}); err != nil {
		t.Error(err)
	}
}

func TestOnlyAPrimaryIsConnectedToUnlessTheURLOrTheOptionsSaySo(t *testing.T) {
	primary, standby := couple(t)
	both := host(t, standby.URL("")) + "," + host(t, primary.URL(""))
	named := func(target string) string {
		config, err := pgx.ParseConfig(primary.URL(""))
		if err != nil {
			t.Fatal(err)
		}
		text := "postgres://" + config.User + ":" + config.Password + "@" + both + "/postgres?sslmode=disable"
		if target != "" {
			text += "&target_session_attrs=" + target
		}
		return text
	}
	for _, c := range []struct {
		what, url string
		standby   bool // Options.Standby
		want      string
	}{
		{"a primary", primary.URL(""), false, "primary"},
		{"a standby", standby.URL(""), false, "none"},
		{"a standby to read from", standby.URL(""), true, "standby"},
		{"a standby that the URL asks for", withHost(t, standby.URL(""), host(t, standby.URL("")), "standby"), false, "standby"},
		{"several", named(""), false, "primary"},
		{"several to read from", named(""), true, "primary"},
		{"several, and any will do", named("any"), false, "standby"},
	} {
		got := "none"
		var inRecovery bool
		s := open(t, c.url, Options{Standby: c.standby})
		err := s.pool.QueryRow(t.Context(), "SELECT pg_is_in_recovery()").Scan(&inRecovery)
		switch {
		case err == nil && inRecovery:
			got = "standby"
		case err == nil:
			got = "primary"
		case !errors.Is(err, ErrStandby):
			t.Errorf("%s: %v", c.what, err)
		}
		if got != c.want {
			t.Errorf("%s: connected to %s, want %s", c.what, got, c.want)
		}
	}
}

func TestProbeLooksAtAStandbyToo(t *testing.T) {
	_, standby := couple(t)
	server, err := open(t, standby.URL(""), Options{}).Probe(t.Context())
	if err != nil || !server.InRecovery {
		t.Errorf("Probe: %+v, %v", server, err)
	}
}
