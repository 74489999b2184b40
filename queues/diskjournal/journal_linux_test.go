package diskjournal

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

const mayNotMount = "this process may not mount"

func init() {
	childRoles["tmpfs"] = func(t *testing.T, dir string) {
		// Its mounts are its own: they go with the process.
		// Outside of them all directories belong to accounts that a user namespace doesn't know.
		err := errors.Join(
			syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
			syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k,mode=700"),
			syscall.Chroot(dir),
			os.Chdir("/"),
		)
		if err != nil {
			t.Skipf("%s: %v", mayNotMount, err)
		}
		dir = "/journal"
		const ballast = "/ballast"
		if err := os.WriteFile(ballast, make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		useFullDisk(t, dir, syscall.ENOSPC, func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAJournalGoesOnAfterItsDiskWasFull(t *testing.T) {
	child := childOf(t, "tmpfs", t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 { // who may mount in a user namespace
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	child.Args = append(child.Args, "-test.v") // says why it was skipped
	out, err := child.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), mayNotMount) {
		t.Skipf("%v %s: here only TestAJournalGoesOnAfterItsFilesCouldNotGrow is about a full disk", err, out)
	}
	if err != nil || !strings.Contains(string(out), childDone) {
		t.Errorf("the child: %v\n%s", err, out)
	}
}
