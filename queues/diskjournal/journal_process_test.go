//go:build linux || darwin

package diskjournal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/spendflush/spendflush/queues/queuetest"
	"github.com/spendflush/spendflush/spend"
)

// Environment by which a test tells a second run of its own binary what to be.
const (
	childRole = "SPENDFLUSH_TEST_JOURNAL_ROLE"
	childDir  = "SPENDFLUSH_TEST_JOURNAL_DIR"

	childDone = "the child has done it"
)

var childRoles = map[string]func(t *testing.T, dir string){
	"hold":   holdJournal,
	"append": appendForEver,
	"limit": func(t *testing.T, dir string) {
		signal.Ignore(syscall.SIGXFSZ) // then a write beyond the limit fails instead
		limitFiles(t, 1000)
		useFullDisk(t, dir, syscall.EFBIG, func() { limitFiles(t, 0) })
	},
	"nobody": useAsNobody,
}

// TestJournalInAChild does nothing by itself: it is what a child process runs.
func TestJournalInAChild(t *testing.T) {
	if role := os.Getenv(childRole); role != "" {
		childRoles[role](t, os.Getenv(childDir))
		if !t.Failed() && !t.Skipped() {
			fmt.Println(childDone)
		}
	}
}

func childOf(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self, "-test.run=^TestJournalInAChild$", "-test.count=1")
	child.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	return child
}

func runChild(t *testing.T, child *exec.Cmd) {
	t.Helper()
	if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), childDone) {
		t.Errorf("the child: %v\n%s", err, out)
	}
}

// startChild starts one that is killed in the end, and returns what it writes.
func startChild(t *testing.T, child *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	return bufio.NewScanner(out)
}

func holdJournal(t *testing.T, dir string) {
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	select {}
}

func TestAJournalOfAnotherProcessIsRefusedUntilThatProcessDies(t *testing.T) {
	dir := t.TempDir()
	child := childOf(t, "hold", dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if lines := startChild(t, child); !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child says %q", lines.Text())
	}
	if _, err := Open(dir); !errors.Is(err, spend.ErrJournalInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("while the child has it: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	j, err := Open(dir)
	if err != nil {
		t.Fatalf("after the child died: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

// appendForEver appends and forgets in three shards, and says so: when Append has returned, and
// before Truncate is called.
func appendForEver(t *testing.T, dir string) {
	lock, err := enterJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(dir, lock, osFiles{}, 3000)
	if err != nil {
		t.Fatal(err)
	}
	producer := queuetest.NewProducer()
	var shards sync.WaitGroup
	for shard := range 3 {
		shards.Go(func() {
			for sequence := uint64(1); ; sequence += 2 {
				if err := j.Append(sequences(producer, shard, sequence, sequence+1)); err != nil {
					panic(err)
				}
				fmt.Printf("appended %s %d %d\n", producer, shard, sequence+1)
				if sequence%10 == 1 && sequence > 20 {
					fmt.Printf("forgotten %s %d %d\n", producer, shard, sequence-20)
					if err := j.Truncate(shard, producer, sequence-20); err != nil {
						panic(err)
					}
				}
			}
		})
	}
	shards.Wait()
}

func TestAJournalHasWhatWasAppendedBeforeItsProcessWasKilled(t *testing.T) {
	type stream struct{ producer, shard string }
	dir := t.TempDir()
	appended, forgotten := map[stream]int{}, map[stream]int{}
	note := func(line string) {
		var what string
		var l stream
		var sequence int
		if _, err := fmt.Sscan(line, &what, &l.producer, &l.shard, &sequence); err != nil {
			t.Fatalf("the child says %q", line)
		}
		if what == "appended" {
			appended[l] = max(appended[l], sequence)
		} else {
			forgotten[l] = max(forgotten[l], sequence)
		}
	}
	for round := range 6 {
		child := childOf(t, "append", dir)
		lines := startChild(t, child)
		for range 1 + round*round*17 {
			if !lines.Scan() {
				t.Fatalf("the child ended: %v", lines.Err())
			}
			note(lines.Text())
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			note(lines.Text())
		}
		_ = child.Wait()

		j := reopen(t, dir, 3000)
		left, err := j.Recovered()
		if err != nil {
			t.Fatal(err)
		}
		has := map[stream][]int{}
		for _, b := range left {
			l := stream{b.Producer.String(), strconv.Itoa(b.Shard)}
			has[l] = append(has[l], int(b.Sequence))
		}
		for l, last := range appended {
			if !slices.IsSorted(has[l]) {
				t.Errorf("round %d: out of order: %v", round, has[l])
			}
			for sequence := forgotten[l] + 1; sequence <= last; sequence++ {
				if _, ok := slices.BinarySearch(has[l], sequence); !ok {
					t.Errorf("round %d: sequence %d of %d is lost, %d were forgotten", round, sequence, last, forgotten[l])
				}
			}
		}
		for _, line := range j.Damage() {
			if !strings.Contains(line, "writing did not end") {
				t.Errorf("round %d: %s", round, line)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// limitFiles limits the size of files that this process writes, or, for 0, does so no longer.
func limitFiles(t *testing.T, size uint64) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur = limit.Max; size > 0 {
		limit.Cur = size
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
}

// useFullDisk appends until the disk is full, and again when there is room.
func useFullDisk(t *testing.T, dir string, cause error, makeRoom func()) {
	j := reopen(t, dir, 1<<20)
	producer := queuetest.NewProducer()
	var all []*spend.Batch
	full := 0
	for sequence := uint64(1); full < 3; {
		batches := sequences(producer, 0, sequence, sequence+1)
		err := j.Append(batches)
		if err == nil {
			all = append(all, batches...)
			sequence += 2
			continue
		}
		full++
		path := filepath.Join(dir, "0000000001.batches")
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), "write "+path) {
			t.Fatalf("append to a full disk: %v", err)
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != string(contentOf(all...)) {
			t.Fatalf("what was written of the batches is still there, %d bytes instead of %d, %v", len(content), len(contentOf(all...)), err)
		}
	}
	makeRoom()
	next := uint64(len(all)) + 1
	for sequence := next; sequence < next+20; sequence++ {
		batches := sequences(producer, 0, sequence, sequence)
		mustAppend(t, j, batches...)
		all = append(all, batches...)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, dir, 1<<20)
	wantLeft(t, j, all...)
	if len(j.Damage()) > 0 {
		t.Errorf("damage: %q", j.Damage())
	}
}

func TestAJournalGoesOnAfterItsFilesCouldNotGrow(t *testing.T) {
	runChild(t, childOf(t, "limit", t.TempDir()))
}

// useAsNobody tries directories without the rights that a journal needs, as a user whom rights
// bind.
func useAsNobody(t *testing.T, _ string) {
	if os.Geteuid() == 0 {
		t.Setenv("TMPDIR", "/tmp")
		const nobody = 65534
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		deny  string // path below the parent of the journal
		mode  os.FileMode
		names string // path that the error must name
	}{
		"a directory that can't be written to": {"journal", 0o500, "journal"},
		"a directory that can't be listed":     {"journal", 0o300, "journal"},
		"a directory that can't be entered":    {"journal", 0o600, "journal/lock"},
		"one above that can't be entered":      {".", 0o600, "journal"},
		"a lock that can't be written to":      {"journal/lock", 0o400, "journal/lock"},
		"a file that can't be read":            {"journal/0000000001.batches", 0o200, "journal/0000000001.batches"},
	} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "journal")
		j := reopen(t, dir, 1<<20)
		batches := sequences(queuetest.NewProducer(), 0, 1, 2)
		mustAppend(t, j, batches...)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		deny := filepath.Join(parent, test.deny)
		if err := os.Chmod(deny, test.mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir)
		says := fmt.Sprintf("user id %d may create, read, write and delete", os.Getuid())
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), filepath.Join(parent, test.names)) ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Chmod(deny, 0o700); err != nil {
			t.Fatal(err)
		}
		wantLeft(t, reopen(t, dir, 1<<20), batches...)
	}
}

func TestAJournalSaysWhichRightIsLacking(t *testing.T) {
	runChild(t, childOf(t, "nobody", t.TempDir()))
}
