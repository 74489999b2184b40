package migrations

import (
	"bytes"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/spendflush/spendflush/internal/pglink"
)

// impatient are migrations that begin by what every transaction sets for itself, and that wait for
// each lock on a table for a second only. Whatever comes after a migration that waits for a table,
// such as a flush of a running instance, waits behind it.
//
// The bound is said in the text of each migration, for the transaction alone. In a session it would
// stay behind with a pooler's connection.
type impatient struct{ fs.FS }

var noTransaction = []byte("-- +goose NO TRANSACTION")

// begin is what a transaction sets for itself that has begun by the defaults of the role.
const begin = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE;\n"

var (
	settingsOfMigration = pglink.Settings(0, time.Second, pglink.OnDisk) + ";\n"
	migrationSettings   = begin + settingsOfMigration
)

// Open implements fs.FS.
func (m impatient) Open(name string) (fs.File, error) {
	file, err := m.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return file, err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(text, noTransaction) {
		for _, mark := range []string{"-- +goose Up\n", "-- +goose Down\n"} {
			text = bytes.Replace(text, []byte(mark), []byte(mark+migrationSettings), 1)
		}
	}
	return &changedFile{File: file, text: bytes.NewReader(text)}, nil
}

// changedFile is a file with another text.
type changedFile struct {
	fs.File
	text io.Reader
}

// Read implements io.Reader.
func (f *changedFile) Read(b []byte) (int, error) { return f.text.Read(b) }
