//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package diskjournal

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/spendflush/spendflush/internal/trust"
	"github.com/spendflush/spendflush/spend"
)

// lockFile locks the file, which is made if there is none, until it is closed or the process dies.
// It doesn't wait: the error wraps spend.ErrJournalInUse if it is locked already. The file is never
// removed: whoever has it open then would lock another file than who comes next.
func lockFile(path string) (io.Closer, error) {
	f, err := trust.Open(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, spend.ErrJournalInUse
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: err}
}
