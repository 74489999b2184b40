package pgstore

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/spend"
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
	f := flushOf(p, 1, 1, request{spend.Series{APIKey: "k"}, noon, one("1")})

	if _, err := s.Marks(t.Context(), 0, []spend.ProducerID{p}); !errors.Is(err, ErrStandby) {
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

	// From now on the address leads to the primary. Connections that are open lead where they led
	// before.
	front.Lead(host(t, primary.URL("")))
	before := s.Stats().Retries
	apply(t, s, f)
	if n := s.Stats().Retries - before; n > 1 {
		t.Errorf("%d tries were made on connections to the standby", n)
	}
	if _, err := s.Marks(t.Context(), 0, []spend.ProducerID{p}); err != nil {
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

// A server that was frozen or cut off when the other was promoted has the lower timeline. Who comes
// new sees both.
func TestOfTwoPrimariesTheOneOfTheLowerTimelineIsLeft(t *testing.T) {
	old, promoted := couple(t)
	if err := promoted.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(old.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	both := "postgres://" + config.User + ":" + config.Password + "@" + host(t, old.URL("")) + "," + host(t, promoted.URL("")) + "/postgres?sslmode=disable"
	var log bytes.Buffer
	s := open(t, both, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		if got := query[int](t, s, "SELECT current_setting('port')::int"); strconv.Itoa(got) != port(t, promoted.URL("")) {
			t.Errorf("connected to port %d, want %s", got, port(t, promoted.URL("")))
		}
		s.pool.Reset()
	}
	want := host(t, old.URL("")) + ", which is of timeline 1, while there is 2"
	if got := s.hosts.OldPrimary(); got != want {
		t.Errorf("the old primary is said to be %q, want %q", got, want)
	}
	if g, err := s.Summary(t.Context()); err != nil || g.OldPrimary != want {
		t.Errorf("%+v, %v", g, err)
	}
	// Once it is stopped nothing is wrong any more. What was seen isn't forgotten.
	if err := old.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old primary isn't told of any more", func() bool {
		s.pool.Reset()
		query[int](t, s, "SELECT 1") // what can't be dialed makes it look
		return s.hosts.OldPrimary() == ""
	})
	s.Close() // nobody writes to the log then
	if text := log.String(); !strings.Contains(text, want) {
		t.Errorf("the log says %q", text)
	}
}

func port(t *testing.T, databaseURL string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(host(t, databaseURL))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Its machine acknowledges what is sent, so that no connection breaks: a call would wait there for
// as long as it may.
func TestAFrozenPrimaryIsLeftOnceAnotherTakesWrites(t *testing.T) {
	primary, standby := couple(t)
	config, err := pgx.ParseConfig(primary.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	both := "postgres://" + config.User + ":" + config.Password + "@" + host(t, primary.URL("")) + "," + host(t, standby.URL("")) + "/postgres?sslmode=disable"
	s := open(t, both, Options{})
	p := newProducer()
	r := request{spend.Series{APIKey: "k"}, noon, one("1")}
	apply(t, s, flushOf(p, 1, 1, r))
	execute(t, s.pool, "CHECKPOINT")
	caughtUp := open(t, standby.URL(""), Options{Standby: true})
	eventually(t, "the standby has the flush", func() bool {
		return query[int](t, caughtUp, "SELECT count(*) FROM spendflush.producers") == 1
	})

	if err := primary.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer primary.Thaw() // else it can't be stopped
	applied := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := flushOf(p, 2, 2, r)
	go func() { applied <- s.Apply(ctx, f) }()
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-applied; err != nil && !errors.Is(err, errUnknown) {
		t.Errorf("Apply: %v", err)
	}
	if got := query[string](t, s, "SELECT sum(updates)::text FROM spendflush.producers"); got != "2" {
		t.Errorf("%s updates are in the books", got)
	}
}
