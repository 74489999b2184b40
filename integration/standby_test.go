package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// couple is a primary and its standby, which follows it through a network that can be cut.
type couple struct {
	t                testing.TB
	primary, standby *servers.Postgres
	between          *faultproxy.Proxy // as the standby was started; a server that follows later has none
}

func newCouple(t testing.TB, primary *servers.Postgres) *couple {
	t.Helper()
	between := faultproxy.New(t, hostOf(t, primary.URL("")))
	return &couple{t, primary, testserver.NewStandby(t, through(t, primary.URL(""), between.Addr(), "")), between}
}

// named returns a URL that names both, this one first.
func named(t testing.TB, first, second *servers.Postgres) string {
	t.Helper()
	return strings.Replace(first.URL(""), hostOf(t, first.URL("")), hostOf(t, first.URL(""))+","+hostOf(t, second.URL("")), 1)
}

func (c *couple) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// promote makes the standby the primary, and returns the moment from which it takes writes. The
// other one is what it was: stopped, dead or left alone.
func (c *couple) promote() time.Time {
	c.t.Helper()
	ctx, cancel := c.within()
	defer cancel()
	if err := c.standby.Promote(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.primary, c.standby = c.standby, c.primary
	return time.Now()
}

// switchOver is what one does on purpose: the primary stops, the standby has all of it and is
// promoted, and the old primary follows the new one.
func (c *couple) switchOver() {
	c.t.Helper()
	c.noteNextCommit(c.stopAndPromote(), "a switchover")
	c.follow()
}

// stopAndPromote is the first half of a switchover. It returns the moment from which the new
// primary takes writes.
func (c *couple) stopAndPromote() time.Time {
	c.t.Helper()
	ctx, cancel := c.within()
	defer cancel()
	if err := c.primary.Stop(ctx); err != nil {
		c.t.Fatal(err)
	}
	return c.promote()
}

func (c *couple) follow() {
	c.t.Helper()
	ctx, cancel := c.within()
	defer cancel()
	if err := c.standby.Follow(ctx, c.primary.URL("")); err != nil {
		c.t.Fatal(err)
	}
}

// noteNextCommit waits for the first commit on the primary and tells in the test's log how long
// after the moment it came. That is no condition of the test: docs/reliability.md has a table of
// it.
func (c *couple) noteNextCommit(since time.Time, what string) {
	c.t.Helper()
	ctx, cancel := c.within()
	defer cancel()
	conn, err := pgx.Connect(ctx, c.primary.URL(""))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(ctx)
	booked := func() (n int64) {
		if err := conn.QueryRow(ctx, "SELECT sum(updates)::bigint FROM spendflush.producers").Scan(&n); err != nil {
			c.t.Fatal(err)
		}
		return n
	}
	for before := booked(); booked() == before; {
	}
	c.t.Logf("next commit after %s: %d ms", what, time.Since(since).Milliseconds())
}

// finish ends the load, drains the instances and compares the books of the primary. None of them
// may have taken the books for turned back.
func (c *couple) finish(s *stack, instances []*instance, l *load) {
	c.t.Helper()
	s.postgres = c.primary.URL("")
	s.finish(instances, l)
	if n := turnedBack(instances); n != 0 {
		c.t.Errorf("%d lines say that Postgres was turned back, and it wasn't", n)
	}
}

// turnedBack counts the instances' lines that cry that Postgres was turned back.
func turnedBack(instances []*instance) (lines int) {
	for _, in := range instances {
		lines += in.count("Postgres was turned back: updates that were committed are gone")
	}
	return lines
}

func TestPostgresSwitchedOverThereAndBackUnderLoadIsExact(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(3, "DATABASE_URL="+named(t, c.primary, c.standby), "SPENDFLUSH_SHARDS=2")
	l := startLoad(t, instances, faultLoad())
	for range 2 { // there and back
		awaitMore(t, instances, "queue", 5)
		c.switchOver()
		awaitMore(t, instances, "queue", 5)
	}
	c.finish(s, instances, l)
}

// Without Redis the instances hold an advisory lock, whose connection ends with the primary.
func TestPostgresSwitchedOverWithoutRedisIsExact(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(2, "DATABASE_URL="+named(t, c.primary, c.standby), "USE_REDIS_TRANSACTION_BUFFER=false", "REDIS_URL=")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "direct", 5)
	c.switchOver()
	awaitMore(t, instances, "direct", 5)
	c.finish(s, instances, l)
}

// The standby is synchronous: it has all that was ever acknowledged.
func TestPostgresFailedOverToASynchronousStandbyIsExact(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	administer(t, s.postgres, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	instances := s.startAll(3, "DATABASE_URL="+named(t, c.primary, c.standby))
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 10)
	if err := c.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	c.noteNextCommit(c.promote(), "a failover")
	awaitMore(t, instances, "queue", 5)
	c.finish(s, instances, l)
}

func TestPostgresFailedOverWithALostTailIsExactWithinTheWindow(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(3, "DATABASE_URL="+named(t, c.primary, c.standby), "SPENDFLUSH_REWIND_WINDOW=60s", "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)

	c.between.Refuse(true) // from here on the standby gets nothing more
	awaitMore(t, instances, "queue", 20)
	if err := c.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	c.promote()
	awaitMore(t, instances, "queue", 5)
	s.postgres = c.primary.URL("")
	s.finish(instances, l)
	if turnedBack(instances) == 0 {
		t.Error("no line says that Postgres was turned back: nothing was lost, and the test shows nothing")
	}
}

func TestAStandbyNamedFirstIsPassedOver(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	both := named(t, c.standby, c.primary)
	instances := s.startAll(2, "DATABASE_URL="+both)
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	c.finish(s, instances, l)
	// What the commands do, too.
	mustRun(t, 0, s.variables("DATABASE_URL="+both), "migrate", "up")
	mustRun(t, 0, s.variables("DATABASE_URL="+both), "flush")
}

// The one address that is known leads to a standby for a while, as stale DNS does in a failover.
// That standby lags: what it says of the marks must not be taken for a Postgres that was turned
// back. Its connections must be gone when the address leads to the primary again.
func TestTheOnlyAddressMayLeadToAStandbyForAWhile(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	front := faultproxy.New(t, hostOf(t, c.primary.URL("")))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(2, "DATABASE_URL="+through(t, c.primary.URL(""), front.Addr(), ""), "SPENDFLUSH_REWIND_WINDOW=60s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	c.between.Refuse(true) // the standby falls behind
	awaitMore(t, instances, "queue", 5)

	front.Lead(hostOf(t, c.standby.URL("")))
	front.Drop()
	for _, in := range instances {
		in.logged("the server is a standby")
	}
	front.Lead(hostOf(t, c.primary.URL(""))) // connections to the standby, if there were any, would stay
	awaitMore(t, instances, "queue", 5)
	c.finish(s, instances, l)
}

// The only host that is known becomes the standby of one that isn't, and the primary again.
// Meanwhile updates are kept.
func TestTheOnlyHostMayBecomeAStandbyForAWhile(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(2, "DATABASE_URL="+c.primary.URL(""))
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	c.stopAndPromote()
	c.follow()
	for _, in := range instances {
		in.logged("the server is a standby")
	}
	awaitCaughtUp(t, c)
	c.stopAndPromote()
	awaitMore(t, instances, "queue", 5)
	c.finish(s, instances, l)
}

// A service restores under another address: a server of an earlier state, elsewhere, is what the
// name leads to from then on. The instances, which aren't restarted, send again what it lacks. This
// is the procedure of the runbook.
func TestARestoreUnderAnotherAddressIsExactWithinTheWindow(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	name := faultproxy.New(t, hostOf(t, c.primary.URL("")))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(3, "DATABASE_URL="+through(t, c.primary.URL(""), name.Addr(), ""), "SPENDFLUSH_REWIND_WINDOW=60s",
		"SPENDFLUSH_SHUTDOWN_TIMEOUT=60s")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	c.between.Refuse(true) // the moment of the backup
	awaitMore(t, instances, "queue", 20)

	c.stopAndPromote() // the old one is shut off, and the restored one starts
	name.Lead(hostOf(t, c.primary.URL("")))
	awaitMore(t, instances, "queue", 5)
	s.postgres = c.primary.URL("")
	s.finish(instances, l)
	if turnedBack(instances) == 0 {
		t.Error("no line says that Postgres was turned back: nothing was lost, and the test shows nothing")
	}
}

// PgBouncer keeps its clients' connections whatever is behind them.
func TestPgBouncerThatIsLedToAnotherServerIsFollowed(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	front := faultproxy.New(t, hostOf(t, c.primary.URL("")))
	pooled := testserver.PgBouncer(t, through(t, c.primary.URL(""), front.Addr(), ""), map[string]string{
		"admin_users": "postgres", "server_lifetime": "1", "server_login_retry": "1",
	})
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	instances := s.startAll(2, "DATABASE_URL="+pooled, "SPENDFLUSH_REWIND_WINDOW=60s")
	l := startLoad(t, instances, faultLoad())
	lead := func(to *servers.Postgres) {
		front.Lead(hostOf(t, to.URL("")))
		administer(t, strings.Replace(pooled, "/postgres?", "/pgbouncer?", 1), "RECONNECT")
	}
	awaitMore(t, instances, "queue", 5)

	// To a standby that lags, and back.
	c.between.Refuse(true)
	awaitMore(t, instances, "queue", 5)
	lead(c.standby)
	eventually(t, "an instance notices the standby", func() string {
		for _, in := range instances {
			if in.count("standby") > 0 || in.count("read-write mode during recovery") > 0 {
				return ""
			}
		}
		return "none does"
	})
	lead(c.primary)
	awaitMore(t, instances, "queue", 5)

	// And to one that is promoted.
	c.between.Refuse(false)
	awaitCaughtUp(t, c)
	promoted := c.stopAndPromote()
	lead(c.primary)
	c.noteNextCommit(promoted, "a switchover behind PgBouncer")
	awaitMore(t, instances, "queue", 5)
	c.finish(s, instances, l)
}

// administer runs statements that a transaction can't hold.
func administer(t testing.TB, databaseURL string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// awaitCaughtUp waits until the standby is streaming again.
func awaitCaughtUp(t *testing.T, c *couple) {
	t.Helper()
	eventually(t, "the standby follows again", func() string {
		n := query(t, c.primary.URL(""), pgx.RowTo[int64],
			"SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")[0]
		if n == 0 {
			return fmt.Sprintf("%d standbys stream", n)
		}
		return ""
	})
}

func TestAStandbyCanBeAudited(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	in := s.start("pod-0")
	l := startLoad(t, []*instance{in}, loadOptions{clients: 2, updates: 200, most: 20})
	_, recorded, _ := l.stop()
	in.stop(0)
	var behind int64
	eventually(t, "the standby has all", func() string {
		behind = recorded.updates - query(t, c.standby.URL(""), pgx.RowTo[int64],
			"SELECT coalesce(sum(updates), 0)::bigint FROM spendflush.producers")[0]
		if behind != 0 {
			return fmt.Sprintf("%d updates are missing", behind)
		}
		return ""
	})
	onStandby := s.variables("DATABASE_URL=" + c.standby.URL(""))
	if text := mustRun(t, 0, onStandby, "audit"); !strings.Contains(text, "the books add up") {
		t.Error(text)
	}
	mustRun(t, 0, onStandby, "status")
	mustRun(t, 0, onStandby, "migrate", "status")
	mustRun(t, 0, onStandby, "quarantine", "list")
	// What writes says why it can't.
	if _, _, stderr := run(t, onStandby, "flush"); strings.Contains(stderr, "panic") {
		t.Error(stderr)
	}
	status, _, stderr := run(t, onStandby, "quarantine", "drop", "1", "--yes")
	if status != 1 || !strings.Contains(stderr, "the server is a standby") {
		t.Errorf("exit status %d: %s", status, stderr)
	}
}

// The primary freezes with all its connections, as a machine does whose hypervisor hangs; its
// standby is promoted; then it wakes up and takes writes, as whoever promoted the other one has
// failed to prevent. It is named first.
func TestAPrimaryThatWakesUpAfterItsStandbyWasPromotedIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	c := newCouple(t, testserver.NewPostgres(t))
	s := stackOn(t, c.primary.URL(""), testserver.Redis(t))
	administer(t, s.postgres, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	both := named(t, c.primary, c.standby)
	instances := s.startAll(2, "DATABASE_URL="+both, "SPENDFLUSH_SHARDS=2")
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 10)
	if err := c.primary.Freeze(); err != nil {
		t.Fatal(err)
	}
	thaw := sync.OnceValue(c.primary.Thaw)
	t.Cleanup(func() { _ = thaw() }) // else it can't be stopped
	old := c.primary
	c.noteNextCommit(c.promote(), "a failover from a frozen primary")
	awaitMore(t, instances, "queue", 10)

	if err := thaw(); err != nil {
		t.Fatal(err)
	}
	for _, in := range instances {
		in.logged("TAKES WRITES ALTHOUGH ANOTHER WAS PROMOTED")
	}
	booked := func() int64 {
		return query(t, old.URL(""), pgx.RowTo[int64], "SELECT sum(updates)::bigint FROM spendflush.producers")[0]
	}
	before := booked()
	late := s.start("pod-late", "DATABASE_URL="+both, "SPENDFLUSH_SHARDS=2") // it has never seen the new one alone
	instances = append(instances, late)
	awaitMore(t, instances, "queue", 10)
	_, page := late.get("/v1/pipeline")
	if !strings.Contains(page, `"old_primary":"`+hostOf(t, old.URL(""))) {
		t.Errorf("the page says nothing of the old primary: %s", page)
	}
	if after := booked(); after != before {
		t.Errorf("%d updates were booked on the old primary", after-before)
	}
	c.finish(s, instances, l)
}
