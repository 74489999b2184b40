//go:build unix

package trust

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	nobody   = 65534
	stranger = 12345 // an account that is neither root nor nobody
)

// asNobody makes this test binary run as an unprivileged user, if root starts it: root may do what
// others may not.
const asNobody = "SPENDFLUSH_TEST_AS_NOBODY"

// refused checks that an error is an *Error about the path that says why.
func refused(t *testing.T, err error, path, why string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Path != path || !strings.Contains(e.Why, why) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("want a refusal of %s because it %s: %v", path, why, err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// sharedDir is a directory as /tmp is: others may put things into it, but not take away or rename
// what isn't theirs.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err, os.Chmod(dir, 0o777|os.ModeSticky))
	return dir
}

func TestWhatIsMadeBelongsToThisUserAlone(t *testing.T) {
	shared := sharedDir(t)
	dir := filepath.Join(shared, "a", "b", "c")
	changed, err := MakeDir(dir, 0o755)
	must(t, err)
	if want := fmt.Sprint([]string{shared, filepath.Join(shared, "a"), filepath.Join(shared, "a", "b")}); fmt.Sprint(changed) != want {
		t.Errorf("changed are %v, want %s", changed, want)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	if changed, err := MakeDir(dir, 0o755); err != nil || len(changed) > 0 {
		t.Errorf("once more: %v %v", changed, err)
	}
	f, err := Open(filepath.Join(dir, "file"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err, f.Close())
	if f, err = OpenSecret(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
	if _, err := OpenSecret(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestADirectoryThatOthersMayWriteToIsRefused(t *testing.T) {
	for _, mode := range []os.FileMode{0o777, 0o770, 0o720, 0o702, 0o777 | os.ModeSticky} {
		dir := filepath.Join(sharedDir(t), "books")
		must(t, os.Mkdir(dir, 0o700), os.Chmod(dir, mode))
		_, err := MakeDir(dir, 0o755)
		refused(t, err, dir, "has mode "+dirMode(mode))
		if mode&os.ModeSticky == 0 && mode != 0o720 && mode != 0o770 { // a private group may write above
			_, err = MakeDir(filepath.Join(dir, "postgres"), 0o755)
			refused(t, err, dir, "has mode")
		}
	}
	dir := filepath.Join(sharedDir(t), "books")
	must(t, os.Mkdir(dir, 0o755))
	if _, err := MakeDir(dir, 0o755); err != nil {
		t.Errorf("others may read it: %v", err)
	}
}

func dirMode(mode os.FileMode) string { return (mode | os.ModeDir).String() }

func TestALinkIsNotFollowedAtTheEnd(t *testing.T) {
	shared := sharedDir(t)
	real, link := filepath.Join(shared, "real"), filepath.Join(shared, "link")
	must(t, os.Mkdir(real, 0o700), os.Symlink(real, link))
	_, err := MakeDir(link, 0o755)
	refused(t, err, link, "is a symbolic link")

	// One's own on the way is nobody else's business, wherever it leads from.
	if _, err := MakeDir(filepath.Join(link, "below"), 0o755); err != nil {
		t.Error(err)
	}
	relative := filepath.Join(shared, "relative")
	must(t, os.Symlink("real/../real", relative))
	if _, err := MakeDir(filepath.Join(relative, "below"), 0o755); err != nil {
		t.Error(err)
	}
	loop := filepath.Join(shared, "loop")
	must(t, os.Symlink(loop, loop))
	if _, err := MakeDir(filepath.Join(loop, "below"), 0o755); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a loop: %v", err)
	}

	victim := filepath.Join(shared, "victim")
	must(t, os.Symlink(victim, filepath.Join(real, "lock")))
	_, err = Open(filepath.Join(real, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	refused(t, err, filepath.Join(real, "lock"), "is a symbolic link")
	if _, err := os.Lstat(victim); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link was followed: %v", err)
	}
}

func TestAFileThatOthersMayReadOrWriteIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "password")
	must(t, os.WriteFile(path, []byte("known"), 0o600))
	for _, mode := range []os.FileMode{0o666, 0o620, 0o602} {
		must(t, os.Chmod(path, mode))
		_, err := Open(path, os.O_RDWR|os.O_CREATE, 0o600)
		refused(t, err, path, "has mode "+mode.String())
	}
	for _, mode := range []os.FileMode{0o666, 0o644, 0o640, 0o604, 0o601} {
		must(t, os.Chmod(path, mode))
		_, err := OpenSecret(path)
		refused(t, err, path, "allowed is a file that its owner alone may read")
	}
	must(t, os.Remove(path), syscall.Mkfifo(path, 0o600))
	_, err := OpenSecret(path) // doesn't wait for a writer
	refused(t, err, path, "is no regular file")
	if _, err := MakeDir(path, 0o755); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a pipe as a directory: %v", err)
	}
}

// TestWhatBelongsToAnotherAccountIsRefused needs root, to make what belongs to others; the same is
// then seen by an unprivileged user.
func TestWhatBelongsToAnotherAccountIsRefused(t *testing.T) {
	if shared := os.Getenv(asNobody); shared != "" {
		seesWhatIsForeign(t, shared)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to other accounts")
	}
	shared := sharedDir(t)
	must(t, os.Chmod(filepath.Dir(shared), 0o755)) // of t.TempDir, which others can't enter else
	dir := filepath.Join(shared, "theirs")
	must(t,
		os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Mkdir(filepath.Join(shared, "real"), 0o755),
		os.Symlink("real", filepath.Join(shared, "link")))
	for _, path := range []string{dir, filepath.Join(dir, "file"), filepath.Join(shared, "link")} {
		must(t, os.Lchown(path, stranger, stranger))
	}
	seesWhatIsForeign(t, shared)

	f, err := Open(filepath.Join(dir, "file"), os.O_RDONLY, 0, stranger)
	must(t, err, f.Close()) // one of the accounts that are named

	self, err := os.Executable()
	must(t, err)
	copied := filepath.Join(shared, "test") // the binary lies where nobody can't go
	content, err := os.ReadFile(self)
	must(t, err, os.WriteFile(copied, content, 0o755))
	child := exec.Command(copied, "-test.run=^TestWhatBelongsToAnotherAccountIsRefused$", "-test.count=1")
	child.Dir, child.Env = "/", []string{asNobody + "=" + shared, "TMPDIR=/tmp"}
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func seesWhatIsForeign(t *testing.T, shared string) {
	t.Helper()
	dir := filepath.Join(shared, "theirs")
	why := fmt.Sprintf("belongs to user id %d; allowed is", stranger)
	_, err := MakeDir(dir, 0o755)
	refused(t, err, dir, why)
	_, err = MakeDir(filepath.Join(dir, "below"), 0o755)
	refused(t, err, dir, why)
	_, err = MakeDir(filepath.Join(shared, "link", "below"), 0o755)
	refused(t, err, filepath.Join(shared, "link"), why)
	file := filepath.Join(dir, "file")
	_, err = Open(file, os.O_RDONLY, 0)
	refused(t, err, file, why)
	_, err = OpenSecret(file)
	if os.Geteuid() == 0 {
		refused(t, err, file, why)
	} else if err == nil {
		t.Error("a secret of another account is taken")
	}
}

func TestOnlyThePrivateGroupOfAUserMayWriteAbove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to other groups")
	}
	for gid, allowed := range map[int]bool{nobody: true, stranger: false, 0: false} {
		shared := sharedDir(t)
		above := filepath.Join(shared, "above")
		must(t, os.Mkdir(above, 0o700), os.Lchown(above, nobody, gid), os.Chmod(above, 0o770))
		info, err := os.Lstat(above)
		must(t, err)
		must(t, syscall.Setegid(nobody), syscall.Seteuid(nobody))
		err = checkDir(above, info, false)
		must(t, syscall.Seteuid(0), syscall.Setegid(0))
		if (err == nil) != allowed {
			t.Errorf("group %d: %v", gid, err)
		}
	}
}
