package servers

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spendflush/spendflush/internal/trust"
)

// DirInUseError says that another server, of this process or another, uses the directory.
type DirInUseError struct {
	Dir string
}

func (e *DirInUseError) Error() string { return e.Dir + " is in use by another server" }

// makeDir makes the directory of a server and returns its absolute path. It stays ours; the
// account, if it is another one, may pass through to what it owns in there. The error is a
// *trust.Error if another account could have made or changed the directory.
func makeDir(dir string, a *account) (string, error) {
	if dir == "" {
		return "", errors.New("Dir is empty")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, err := trust.MakeDir(dir, 0o755); err != nil {
		return "", err
	}
	if a != nil {
		st, err := os.Stat(dir)
		if err != nil {
			return "", err
		}
		if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
			return "", err
		}
	}
	return dir, a.checkReach(dir)
}

// lockDir takes the lock of the directory. It ends with the file, or with this process.
func lockDir(dir string) (*os.File, error) { return flock(dir, syscall.LOCK_EX) }

// shareDir is lockDir for those who only read: several may at a time, but nobody while there is a
// server.
func shareDir(dir string) (*os.File, error) { return flock(dir, syscall.LOCK_SH) }

func flock(dir string, how int) (*os.File, error) {
	file, err := trust.Open(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &DirInUseError{Dir: dir}
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return file, nil
}

// endOrphans ends the server that an earlier process left running in workDir, if there is one, and
// waits until all of it is gone. Then a pid file means nothing any more: a number in it may be
// another process's by now. The caller must hold the lock of the directory.
func endOrphans(ctx context.Context, program, pidFile, workDir string, sig syscall.Signal) error {
	told := 0
	for {
		pids, sure, err := runningIn(workDir, program)
		if err != nil || !sure {
			return err
		}
		if len(pids) == 0 {
			break
		}
		content, _ := os.ReadFile(pidFile) // it may go away at any time
		if pid := leadingNumber(string(content)); pid != told && slices.Contains(pids, pid) {
			for _, sig := range []syscall.Signal{sig, syscall.SIGCONT} {
				if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("end process %d, left running in %s: %w", pid, workDir, err)
				}
			}
			told = pid
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for processes %v, left running in %s, to end: %w", pids, workDir, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// password returns the password kept in the directory. If there is none it keeps the one given, or
// a random one for "".
func password(dir, given string) (string, error) {
	secret, err := keptPassword(dir)
	if errors.Is(err, fs.ErrNotExist) {
		secret = cmp.Or(given, rand.Text())
		err = writeFile(passwordFile(dir), secret+"\n", nil)
	}
	return secret, err
}

// keptPassword returns the password kept in the directory. It refuses one that others can know.
func keptPassword(dir string) (string, error) {
	file, err := trust.OpenSecret(passwordFile(dir))
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", passwordFile(dir))
	}
	return secret, nil
}

func passwordFile(dir string) string { return filepath.Join(dir, "password") }

// writeFile replaces a file as a whole. Only the account can read it.
func writeFile(path, content string, a *account) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died, or a link
		return err
	}
	file, err := trust.Open(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(file, content)
	if err := errors.Join(err, file.Close(), a.own(temporary)); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// lastLines returns the last lines of a log from the offset on, indented, for an error.
func lastLines(path string, offset int64) string {
	const maxBytes, maxLines = 4096, 12
	file, err := os.Open(path)
	if err != nil {
		return "\t" + err.Error()
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return "\t" + err.Error()
	}
	content, err := io.ReadAll(io.NewSectionReader(file, max(offset, st.Size()-maxBytes), maxBytes))
	if err != nil {
		return "\t" + err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return indent(bytes.Join(lines[max(0, len(lines)-maxLines):], []byte("\n")))
}

func indent(text []byte) string {
	return "\t" + strings.ReplaceAll(string(bytes.TrimSpace(text)), "\n", "\n\t")
}
