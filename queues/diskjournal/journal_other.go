//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package diskjournal

import (
	"errors"
	"io"
	"os"
)

// lockFile refuses: without a lock that ends with its process, two of them could use one journal.
func lockFile(path string) (io.Closer, error) {
	return nil, &os.PathError{Op: "lock", Path: path, Err: errors.ErrUnsupported}
}
