// Package trust makes and opens what belongs to this user alone: directories and files that nobody
// else can have made, replaced or write to. What was put there by another account is refused by
// name, before anything of it is used.
package trust

import "os"

// Error says why a directory or file is refused, and what is allowed.
type Error struct {
	Path string
	Why  string
}

func (e *Error) Error() string { return e.Path + " " + e.Why }

// Unwrap lets errors.Is find os.ErrPermission.
func (e *Error) Unwrap() error { return os.ErrPermission }
