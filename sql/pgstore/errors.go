package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/spendflush/spendflush/internal/pglink"
	"github.com/spendflush/spendflush/spend"
)

// ErrRefused is spend.ErrRefused: Postgres, or Apply itself, refuses what is to be written because
// of what it is.
var ErrRefused = spend.ErrRefused

// errShort is wrapped where a statement did less than it was sent, so that the transaction was
// rolled back.
var errShort = errors.New("fewer rows than were sent")

// action says what to do about a failed try of a transaction whose COMMIT wasn't sent, or was
// refused.
type action int

const (
	giveUp  action = iota
	retry          // the same again, after a pause
	relearn        // the dictionary isn't as cached: evict all, then the same again
	isolate        // a row can't be written: find out which
)

// sqlState returns the error code that Postgres gave, "" if the error isn't Postgres's.
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// Refusal returns what Postgres itself answered, in one line with its code, or that it is a
// standby; "" if the error isn't an answer of it, as where it can't be reached.
func Refusal(err error) string {
	if errors.Is(err, ErrStandby) {
		return ErrStandby.Error()
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || isConnectionCode(pg.Code) {
		return ""
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", pg.Message, pg.Code)
}

// denied has the error wrap spend.ErrDenied if Postgres refuses for lack of rights.
func denied(err error) error {
	if sqlState(err) == codeNoPrivilege {
		return fmt.Errorf("%w: %w", spend.ErrDenied, err)
	}
	return err
}

const (
	codeDeadlock            = "40P01"
	codeSerialization       = "40001"
	codeLockTimeout         = "55P03"
	codeForeignKeyViolation = "23503" // raised by the triggers of migrations/00001_books.sql
	codeCheckViolation      = "23514"
	codeCardinality         = "21000" // a row twice in one statement
	codeOutOfRange          = "22003"
	codeLimit               = "54000" // such as a row too large for an index
	codeNoPrivilege         = "42501"
	codeUndefinedTable      = "42P01"
	codeUndefinedColumn     = "42703"
	codeUndefinedSchema     = "3F000"
)

// Explain explains an error that Postgres gave about what it was asked and not about how it is:
// asking again can't help. ok is false for all other errors. The explanation names no host, no role
// and nothing that is in the books.
func Explain(err error) (explanation string, ok bool) {
	code := sqlState(err)
	switch {
	case errors.Is(err, ErrOutOfRange), code == codeOutOfRange:
		return "a sum is out of range (SQLSTATE " + codeOutOfRange + ")", true
	case strings.HasPrefix(code, "22"):
		return "a value in the books can't be used (SQLSTATE " + code + ")", true
	case code == codeNoPrivilege:
		return "the role of this instance has no privilege for what it reads (SQLSTATE " + code + ")", true
	case code == codeUndefinedTable, code == codeUndefinedColumn, code == codeUndefinedSchema:
		return "a table or a column is missing: the database isn't migrated, or was changed (SQLSTATE " + code + ")", true
	case strings.HasPrefix(code, "42"):
		return "it doesn't take the statement (SQLSTATE " + code + ")", true
	}
	return "", false
}

// classify classifies the error of a try.
func classify(ctx context.Context, err error) action {
	code := sqlState(err)
	switch {
	case ctx.Err() != nil, errors.Is(err, spend.ErrOtherBooks):
		return giveUp
	case errors.Is(err, errShort), code == codeForeignKeyViolation, lacksPart(err):
		return relearn
	case code == "":
		// Not from Postgres: the connection failed, or couldn't be made.
		if errors.Is(err, ErrRefused) {
			return giveUp
		}
		return retry
	case code == codeDeadlock, code == codeSerialization, code == codeLockTimeout, isConnectionCode(code):
		return retry
	case isOfRow(code), isOfOthers(code):
		return isolate
	default:
		return giveUp
	}
}

// isOfRow says whether the code is about what was to be written: a row twice, data that can't be
// (class 22), a constraint (23).
func isOfRow(code string) bool {
	return code == codeCardinality || strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23")
}

// isOfOthers says whether the code may be about one row, because an operator has put a trigger or
// an index on a table of ours: what a function raises (class P0), and a row too large for an index.
// A row is set aside for it if others are taken. If it is another statement that fails, nothing
// says that a batch is at fault: all of them may fail.
func isOfOthers(code string) bool { return strings.HasPrefix(code, "P0") || code == codeLimit }

// isConnectionCode says whether the code is about the connection or the server's state and not
// about the statement: classes 08 (connection exception), 25P03 (idled too long in the
// transaction), 53300 (too many connections) and 57P (operator intervention, such as a shutdown or
// a terminated backend), and the two of a server that became a standby. The connection of the
// latter is closed, so that the next try looks for a primary.
func isConnectionCode(code string) bool {
	return strings.HasPrefix(code, "08") || code == "25P03" || code == "53300" || strings.HasPrefix(code, "57P") || pglink.Ends(code)
}
