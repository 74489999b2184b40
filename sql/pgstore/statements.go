package pgstore

import (
	"embed"
	"io/fs"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/spendflush/spendflush/internal/pglink"
)

//go:embed *.sql
var files embed.FS

// statements are the texts of the .sql files by name, without the extension and without the
// comments at their heads.
type statements map[string]string

var embedded = load(files)

// How a transaction behaves. These are not settings: there is no reason to change them.
const (
	// idleTimeout is how long Postgres lets a client that has stopped (SIGSTOP, a frozen machine)
	// keep rows locked. A client at work needs some milliseconds between two statements.
	idleTimeout = 2 * time.Second
	// lockTimeout is how long a statement waits for a row before the transaction is tried anew.
	lockTimeout = 10 * time.Second
	// idleReadTimeout is how long Postgres lets a client that has stopped keep a snapshot.
	idleReadTimeout = time.Minute
)

// byIndex has an update of known rows look each of them up in the index, whatever the planner
// believes that reading the whole table costs.
const byIndex = `,
    pg_catalog.set_config('enable_hashjoin', 'off', true),
    pg_catalog.set_config('enable_mergejoin', 'off', true)`

// notCompiled has no statement compiled: for one that reads all the books that takes longer than to
// run it.
const notCompiled = `,
    pg_catalog.set_config('jit', 'off', true)`

// frame are the statements that aren't in files: how transactions, and parts of them, begin and
// end.
var frame = statements{
	"begin":          pglink.BeginWrite,
	"settings":       pglink.Settings(idleTimeout, lockTimeout, pglink.OnDisk+byIndex),
	"begin_read":     pglink.BeginRead,
	"begin_snapshot": pglink.BeginSnapshot,
	"settings_read":  pglink.Settings(idleReadTimeout, 0, notCompiled),
	"lock_marks":     "LOCK TABLE spendflush.producers IN SHARE ROW EXCLUSIVE MODE",
	"savepoint":      "SAVEPOINT part",
	"release":        "RELEASE SAVEPOINT part",
	"undo_part":      "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part",
}

func load(from fs.FS) statements {
	texts := maps.Clone(frame)
	names, _ := fs.Glob(from, "*.sql") // the pattern is well-formed
	for _, name := range names {
		text, err := fs.ReadFile(from, name)
		if err != nil {
			panic("spendflush/sql: an embedded file can't be read: " + err.Error())
		}
		statement, plain := strings.TrimSuffix(name, ".sql"), withoutComments(string(text))
		texts[statement] = render(name, plain, false)
		if statement == "usage" {
			texts["usage_whole"] = render(name, plain, true)
		}
	}
	for part := range factParts {
		number := strconv.Itoa(part)
		texts["fact_add_"+number] = strings.NewReplacer("ids_0", "ids_"+number, "part = 0", "part = "+number).Replace(texts["fact_add"])
	}
	return texts
}

// withoutComments leaves out the lines that are comments: they would travel with every call.
func withoutComments(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, ""))
}

// get returns the statement of that name. A name without a file is a mistake in this package.
func (s statements) get(name string) string {
	text, ok := s[name]
	if !ok {
		panic("spendflush/sql: no statement " + name)
	}
	return text
}
