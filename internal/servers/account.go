package servers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that a server runs as; nil is the user of this process.
type account struct {
	name     string
	uid, gid uint32
}

// unprivileged returns the account for programs that refuse to run as root: nil if we aren't root,
// else postgres or nobody.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s has id %q: %w", name, u.Uid, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s has group %q: %w", name, u.Gid, err)
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("this program refuses to run as root, and there is neither a user postgres nor nobody")
}

// apply makes cmd run as the account.
func (a *account) apply(cmd *exec.Cmd) {
	if a == nil {
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
}

// own gives the file or directory to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// checkReach returns an error that names the first directory above dir that keeps the account out.
func (a *account) checkReach(dir string) error {
	if a == nil {
		return nil
	}
	for above := filepath.Dir(dir); ; above = filepath.Dir(above) {
		st, err := os.Stat(above)
		if err != nil {
			return err
		}
		if !a.mayEnter(st) {
			return fmt.Errorf("user %s can't reach %s: %s has mode %s (chmod o+x, or choose another directory): %w",
				a.name, dir, above, st.Mode(), fs.ErrPermission)
		}
		if above == filepath.Dir(above) {
			return nil
		}
	}
}

func (a *account) mayEnter(st fs.FileInfo) bool {
	bit := fs.FileMode(0o001)
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		switch {
		case sys.Uid == a.uid:
			bit = 0o100
		case sys.Gid == a.gid:
			bit = 0o010
		}
	}
	return st.Mode()&bit != 0
}
