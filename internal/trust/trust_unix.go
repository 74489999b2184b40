//go:build unix

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	writableByOthers = 0o022
	readableByOthers = 0o077
	maxLinks         = 40 // as many as the kernel follows
)

// MakeDir makes the directory with the mode 0700, and those above it with the mode above, unless
// they are there. It returns the directories that got a new entry. dir must be absolute.
//
// It checks each directory on the way, from the root on, and returns an *Error for the first one
// that isn't safe. The directory itself must belong to this user or root, be writable by its owner
// alone, and be no symbolic link. Those above it must belong to this user or root. Other accounts
// may write to them only if they are sticky, as /tmp is, or if the group is the private one of this
// user. Symbolic links among them must belong to this user or root.
func MakeDir(dir string, above fs.FileMode) (changed []string, err error) {
	at := string(filepath.Separator)
	rest := split(dir)
	for links := 0; ; {
		info, err := os.Lstat(at)
		if err != nil {
			return changed, err
		}
		isLast := len(rest) == 0
		if info.Mode()&fs.ModeSymlink != 0 {
			to, err := follow(at, info, isLast)
			if err != nil {
				return changed, err
			}
			if links++; links > maxLinks {
				return changed, &fs.PathError{Op: "open directory", Path: dir, Err: syscall.ELOOP}
			}
			at, rest = string(filepath.Separator), append(split(to), rest...)
			continue
		}
		if err := checkDir(at, info, isLast); err != nil || isLast {
			return changed, err
		}

		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		mode := above
		if len(rest) == 0 {
			mode = 0o700
		}
		switch err := os.Mkdir(next, mode); {
		case err == nil:
			changed = append(changed, at)
		case !errors.Is(err, fs.ErrExist):
			// A directory that is there may lie where this user can't make one.
			if _, missing := os.Lstat(next); missing != nil {
				return changed, err
			}
		}
		at = next
	}
}

func split(path string) []string {
	return strings.FieldsFunc(filepath.Clean(path), func(r rune) bool { return r == filepath.Separator })
}

// follow returns where a symbolic link on the way leads.
func follow(path string, info fs.FileInfo, isLast bool) (string, error) {
	if isLast {
		return "", &Error{path, "is a symbolic link; allowed is a directory"}
	}
	if err := checkOwner(path, info, "symbolic link", os.Geteuid()); err != nil {
		return "", err
	}
	to, err := os.Readlink(path)
	if err != nil || filepath.IsAbs(to) {
		return to, err
	}
	return filepath.Join(filepath.Dir(path), to), nil
}

func checkDir(path string, info fs.FileInfo, isLast bool) error {
	if !info.IsDir() {
		return &fs.PathError{Op: "open directory", Path: path, Err: syscall.ENOTDIR}
	}
	if err := checkOwner(path, info, "directory", os.Geteuid()); err != nil {
		return err
	}
	others := info.Mode().Perm() & writableByOthers
	if !isLast && (info.Mode()&fs.ModeSticky != 0 || others == 0o020 && isPrivateGroup(info)) {
		return nil
	}
	if others != 0 {
		return &Error{path, fmt.Sprintf("has mode %s; allowed is a directory that its owner alone may write to (chmod go-w %s)",
			info.Mode(), path)}
	}
	return nil
}

// isPrivateGroup says whether the group of a file is one that this user alone is in, as far as
// numbers tell: many systems give each user a group with the number of the user.
func isPrivateGroup(info fs.FileInfo) bool {
	sys, ok := info.Sys().(*syscall.Stat_t)
	euid := os.Geteuid()
	return ok && euid != 0 && int(sys.Gid) == euid && os.Getegid() == euid
}

// checkOwner returns an *Error unless the file belongs to root or to one of the users.
func checkOwner(path string, info fs.FileInfo, what string, users ...int) error {
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return &Error{path, "doesn't tell who owns it"}
	}
	if sys.Uid == 0 {
		return nil
	}
	for _, user := range users {
		if int(sys.Uid) == user {
			return nil
		}
	}
	return &Error{path, fmt.Sprintf("belongs to user id %d; allowed is a %s of user id %d or of root", sys.Uid, what, os.Geteuid())}
}

// Open opens a file in a directory that MakeDir has checked, as os.OpenFile does. It returns an
// *Error if the file is a symbolic link or no regular file, belongs to another user than this one,
// root or one of the accounts, or can be written to by others.
func Open(path string, flag int, mode fs.FileMode, accounts ...int) (*os.File, error) {
	return open(path, flag, mode, writableByOthers, accounts)
}

// OpenSecret is Open for reading a file that others must not be able to read either.
func OpenSecret(path string) (*os.File, error) {
	return open(path, os.O_RDONLY, 0, readableByOthers, nil)
}

func open(path string, flag int, mode, forbidden fs.FileMode, accounts []int) (*os.File, error) {
	// Without O_NONBLOCK a pipe that lies there would keep the caller waiting.
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EMLINK) {
		return nil, &Error{path, "is a symbolic link; allowed is a file"}
	}
	if err != nil {
		return nil, err
	}
	if err := checkFile(path, f, forbidden, accounts); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func checkFile(path string, f *os.File, forbidden fs.FileMode, accounts []int) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &Error{path, "is no regular file; allowed is a file"}
	}
	if err := checkOwner(path, info, "file", append([]int{os.Geteuid()}, accounts...)...); err != nil {
		return err
	}
	if info.Mode().Perm()&forbidden == 0 {
		return nil
	}
	if forbidden == readableByOthers {
		return &Error{path, fmt.Sprintf("has mode %s; allowed is a file that its owner alone may read (chmod 600 %s)", info.Mode(), path)}
	}
	return &Error{path, fmt.Sprintf("has mode %s; allowed is a file that its owner alone may write to (chmod go-w %s)", info.Mode(), path)}
}
