package access

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// Keys are the tokens that open the API now. Whether there are any never changes: with none, the API is open.
type Keys struct {
	list  atomic.Pointer[List]
	path  string // of the file; "": they don't change
	stale atomic.Bool

	// Of Follow alone.
	taken string // text that the list is made of, or that can't be taken
	seen  string // text that was found at the last look
	said  string // error that was logged
}

// NewKeys returns keys that stay as the list is. A nil list has none.
func NewKeys(list *List) *Keys {
	k := &Keys{}
	k.list.Store(list)
	return k
}

// OpenFile returns the keys that the file has. Follow reads it again.
func OpenFile(path string) (*Keys, error) {
	text, err := ReadText(path)
	if err != nil {
		return nil, err
	}
	list, err := listOf(path, text, nil)
	if err != nil {
		return nil, err
	}
	k := NewKeys(list)
	k.path, k.taken, k.seen = path, text, text
	return k, nil
}

// Now returns the list as it is now.
func (k *Keys) Now() *List {
	if k == nil {
		return nil
	}
	return k.list.Load()
}

// Any says whether a token is needed.
func (k *Keys) Any() bool { return k.Now().Len() > 0 }

// IsStale says whether the file has something that can't be taken, or can't be read: the list is that of before.
func (k *Keys) IsStale() bool { return k != nil && k.stale.Load() }

// followEvery is how often the file is read. A list counts once two looks have found the same, so that a file isn't taken
// while it is being written.
const followEvery = time.Second

// Follow reads the file every second, until ctx ends. A file that can't be read or taken changes nothing, and is logged once.
// Keys that are no file's don't change: it returns at once.
func (k *Keys) Follow(ctx context.Context, log *slog.Logger) {
	if k.path == "" {
		return
	}
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.look(log)
		}
	}
}

// look reads the file once.
func (k *Keys) look(log *slog.Logger) {
	text, err := ReadText(k.path)
	if err != nil {
		k.taken, k.seen = "", "" // whatever comes then is news
		k.keep(log, err)
		return
	}
	isSettled := text == k.seen
	k.seen = text
	if !isSettled || text == k.taken {
		return
	}
	k.taken = text
	old := k.Now()
	list, err := listOf(k.path, text, old)
	if err != nil {
		k.keep(log, err)
		return
	}
	k.list.Store(list)
	k.stale.Store(false)
	k.said = ""
	log.Info("the tokens were read again", "file", k.path, "tokens", list.Len(), "added", list.without(old), "removed", old.without(list))
}

// keep says that the list stays as it was.
func (k *Keys) keep(log *slog.Logger, err error) {
	k.stale.Store(true)
	if k.said == err.Error() {
		return
	}
	k.said = err.Error()
	log.Error("the tokens can't be read again: those of before go on counting, also such as were taken out of the file since",
		"error", err, "tokens", k.Now().Len())
}

// without returns the names of the tokens that other doesn't have.
func (l *List) without(other *List) []string {
	names := []string{}
	l.Each(func(t *Token) bool {
		if !other.Has(t) {
			names = append(names, t.Name)
		}
		return true
	})
	return names
}
