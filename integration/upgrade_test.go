package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// newerBinary is the program as its next release might be: it writes format 3 in place of 1, and
// reads 1 to 3.
var newerBinary = sync.OnceValues(func() (string, error) {
	source, err := filepath.Abs("../spend/batch.go")
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(binary)
	changed := filepath.Join(dir, "batch.go")
	newer := strings.NewReplacer("const BatchVersion = 2\n", "const BatchVersion = 3\n", "plainVersion = 1 ", "plainVersion = 3 ").Replace(string(text))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(changed, []byte(newer), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "spendflush-newer")
	cmd := exec.Command("go", "build", "-trimpath", "-overlay", filepath.Join(dir, "overlay.json"), "-o", path, "./cmd/spendflush")
	cmd.Dir = ".."                                  // see build
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as in make build, whatever the tests have
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", &buildError{err, string(output)}
	}
	return path, nil
})

type buildError struct {
	error
	output string
}

func (e *buildError) Error() string { return e.error.Error() + "\n" + e.output }

// startNewer starts an instance of the next release.
func (s *stack) startNewer(name string, variables ...string) *instance {
	s.t.Helper()
	path, err := newerBinary()
	if err != nil {
		s.t.Fatalf("build the next release: %v", err)
	}
	variables = append([]string{"SPENDFLUSH_INSTANCE=" + name}, variables...)
	in := &instance{process: launchProgram(s.t, path, name, s.variables(variables...), "serve"), stack: s}
	return in.awaitReady()
}

// Old and new run side by side, the old ones are stopped one after the other, then some are started
// again.
func TestRollingUpgradeAndRollbackOfTheBatchFormatLoseNothing(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	old := s.startAll(2)
	ofOld := startLoad(t, old, faultLoad())
	awaitMore(t, old, "queue", 3)

	// The old ones hold the lock and go on having work. What the new one queues must be flushed all
	// the same.
	newer := []*instance{s.startNewer("newer-0")}
	options := faultLoad()
	options.prefix = "newer-"
	ofNewer := startLoad(t, newer, options)
	eventually(t, "the new instance's batches are committed", func() string {
		if s.number(`SELECT count(*) FROM spendflush.spend WHERE entity_type = 'api_key' AND entity_id LIKE 'newer-%' AND api_requests > 0`) == 0 {
			return "none is"
		}
		return ""
	})
	awaitMore(t, newer, "queue", 3)
	_, recorded, _ := ofOld.stop()
	stopAll(old)

	// Only new ones, and then back.
	newer = append(newer, s.startNewer("newer-1"))
	awaitMore(t, newer, "queue", 3)
	_, more, _ := ofNewer.stop()
	recorded.join(more)
	awaitCommitted(t, newer)
	client := s.redisClient()
	s.holdLock(client, newer...)
	left := startLoad(t, newer, loadOptions{clients: 2, updates: 200, most: 20, acks: []string{"queued"}, prefix: "left-"})
	_, ofLeft, _ := left.stop()
	for _, in := range newer {
		in.kill()
	}
	if err := client.Del(t.Context(), s.lockKey(0)).Err(); err != nil {
		t.Fatal(err)
	}
	old = s.startAll(2, "SPENDFLUSH_GAP_GRACE=1s")
	back := startLoad(t, old, loadOptions{clients: 4, updates: 1000, most: 20, prefix: "back-"})
	_, ofBack, _ := back.stop()
	recorded.join(ofBack)
	eventually(t, "an old instance says that batches wait for a newer one", func() string {
		for _, in := range old {
			if in.metrics().sum("spendflush_newer_batches") > 0 && in.count("batches of a newer format wait") > 0 {
				return ""
			}
		}
		return "none does"
	})
	stopAll(old)
	s.check(recorded)

	// They were waited for, and a new instance counts them.
	last := s.startNewer("newer-2")
	eventually(t, "the queue is empty", func() string {
		if client.XLen(t.Context(), s.queueKey(0)).Val() > 0 {
			return "it isn't"
		}
		return ""
	})
	last.stop(0)
	recorded.join(ofLeft)
	s.check(recorded)
	s.audit()
}
