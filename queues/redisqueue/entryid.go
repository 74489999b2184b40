package redisqueue

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// An EntryID of a Redis queue is the id of the entry in the stream, a slash, and the identity of
// what was pushed or read there, as identityOf in entry.lua makes it:
//
//	1790683200000-0/0190f3a2-7c1e-7d3b-9c55-0d6f6f1b2a11/17/5f0c9a1e
//
// Streams give an id again after a loss, for example when a replica is promoted whose clock is
// behind; and batches of other books, or of a process that was cloned, may have the same producer
// and sequence.

func entryID(id, identity string) spend.EntryID { return spend.EntryID(id + "/" + identity) }

// streamPlace is what an EntryID says.
type streamPlace struct {
	id       string // in the stream
	identity string
	added    time.Time // by the clock of Redis; zero if no clock can say so
}

// parseID returns false if no queue can have given the id.
func parseID(id spend.EntryID) (streamPlace, bool) {
	inStream, identity, _ := strings.Cut(string(id), "/")
	before, after, found := strings.Cut(inStream, "-")
	if !found {
		return streamPlace{}, false
	}
	ms, err := strconv.ParseUint(before, 10, 64)
	if err != nil {
		return streamPlace{}, false
	}
	if _, err := strconv.ParseUint(after, 10, 64); err != nil {
		return streamPlace{}, false
	}
	place := streamPlace{id: inStream, identity: identity}
	if ms <= math.MaxInt64 {
		place.added = time.UnixMilli(int64(ms))
	}
	return place, true
}
