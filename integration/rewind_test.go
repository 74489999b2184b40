package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
)

// A backup of the files of Postgres is taken under load and put back later. One of the instances,
// whose batches were committed in between, is dead by then. The oracle is what the clients know: it
// is what an undisturbed twin would have.
func TestPostgresRestoredFromABackupEndsLikeItsUndisturbedTwin(t *testing.T) {
	t.Parallel()
	restoreBackup(t, 8*time.Second, "30s")
}

// restoreBackup turns Postgres back by this much of the time that it ran.
func restoreBackup(t *testing.T, back time.Duration, window string) {
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	instances := s.startAll(3, "SPENDFLUSH_REWIND_WINDOW="+window, "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s", "SPENDFLUSH_SHARDS=2")
	l := startLoad(t, instances[:2], faultLoad())
	awaitMore(t, instances, "queue", 5)
	backup := takeBackup(t, postgres)

	// What the third instance books is committed, and then it dies.
	doomed := startLoad(t, instances[2:], loadOptions{clients: 2, most: 20, pace: 10 * time.Millisecond, acks: []string{"committed"}, prefix: "doomed-"})
	waited := time.NewTimer(back)
	defer waited.Stop()
	<-waited.C
	_, ofDoomed, safe := doomed.stop()
	if safe.updates == 0 || safe.updates != ofDoomed.updates {
		t.Fatalf("%d of %d updates of the third instance are committed", safe.updates, ofDoomed.updates)
	}
	instances[2].kill()

	before := s.number("SELECT sum(updates)::bigint FROM spendflush.producers")
	putBack(t, postgres, backup)
	t.Logf("the books had %d updates before the restore, and %d right after it", before,
		s.number("SELECT sum(updates)::bigint FROM spendflush.producers"))
	awaitMore(t, instances[:2], "queue", 5)
	_, recorded, _ := l.stop()
	recorded.join(ofDoomed)
	stopAll(instances[:2])
	s.check(recorded)
	s.audit()
	noticed, restored := 0, 0
	for _, in := range instances[:2] {
		noticed += in.count("Postgres was turned back: updates")
		restored += in.count("what the queue retained is in it again")
	}
	if noticed == 0 || restored == 0 {
		t.Errorf("%d lines say that Postgres was turned back, %d that the queue put back what it kept", noticed, restored)
	}
	t.Logf("%d updates", recorded.updates)
}

// takeBackup copies the files of the server, which is down meanwhile.
func takeBackup(t *testing.T, server *servers.Postgres) (dir string) {
	t.Helper()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "data")
	copyTree(t, filepath.Join(server.Dir(), "data"), dir)
	restart(t, server.Restart)
	return dir
}

// putBack replaces the files of the server.
func putBack(t *testing.T, server *servers.Postgres, backup string) {
	t.Helper()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(server.Dir(), "data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	copyTree(t, backup, data)
	restart(t, server.Restart)
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if output, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, output)
	}
}

// Without a window what was committed is gone, but it is told, and nobody waits for it for ever.
func TestPostgresRestoredWithoutAWindowSaysWhatIsGone(t *testing.T) {
	t.Parallel()
	postgres, redis := testserver.NewPostgres(t), testserver.NewRedis(t)
	s := stackOn(t, postgres.URL("postgres"), redis.URL())
	instances := s.startAll(2, "SPENDFLUSH_GAP_GRACE=2s", "SPENDFLUSH_SHUTDOWN_TIMEOUT=60s")
	first := startLoad(t, instances, loadOptions{clients: 4, updates: 500, most: 20})
	_, kept, _ := first.stop()
	awaitCommitted(t, instances)
	backup := takeBackup(t, postgres)
	middle := startLoad(t, instances, loadOptions{clients: 4, updates: 500, most: 20, prefix: "gone-", acks: []string{"committed"}})
	_, gone, _ := middle.stop()
	awaitCommitted(t, instances)
	putBack(t, postgres, backup)
	last := startLoad(t, instances, loadOptions{clients: 4, updates: 500, most: 20, prefix: "after-"})
	_, after, _ := last.stop()
	awaitCommitted(t, instances)
	stopAll(instances)

	kept.join(after)
	compare(t, "spend", kept.entities, s.readEntities())
	s.audit()
	lost := s.number("SELECT count(*) FROM spendflush.lost_batches WHERE found_at IS NULL")
	updates := s.number("SELECT sum(sealed_updates - updates)::bigint FROM spendflush.producers")
	if lost == 0 || updates != gone.updates {
		t.Errorf("%d batches with %d updates are said to be lost; want %d updates", lost, updates, gone.updates)
	}
	report := mustRun(t, 0, s.variables(), "audit")
	if want := fmt.Sprintf("lost: %d updates", gone.updates); !contains(report, want) {
		t.Errorf("the audit doesn't say %q:\n%s", want, report)
	}
}
