//go:build !unix

package trust

import (
	"io/fs"
	"os"
)

// MakeDir makes the directory and those above it. This system has no owners and modes that could be
// checked.
func MakeDir(dir string, above fs.FileMode) (changed []string, err error) {
	return nil, os.MkdirAll(dir, above)
}

// Open is os.OpenFile.
func Open(path string, flag int, mode fs.FileMode, _ ...int) (*os.File, error) {
	return os.OpenFile(path, flag, mode)
}

// OpenSecret opens a file for reading.
func OpenSecret(path string) (*os.File, error) { return os.Open(path) }
