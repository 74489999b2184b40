package access

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/spendflush/spendflush/internal/reread"
)

// Keys are the tokens that open the API now. Whether there are any never changes: with none, the
// API is open.
type Keys struct {
	list atomic.Pointer[List]
	path string                 // of the file
	file *reread.Source[string] // nil: they don't change
}

// NewKeys returns keys that stay as the list is. A nil list has none.
func NewKeys(list *List) *Keys {
	k := &Keys{}
	k.list.Store(list)
	return k
}

// OpenFile returns the keys that the file has. Follow reads it again.
func OpenFile(path string) (k *Keys, err error) {
	k = &Keys{path: path}
	k.file, err = reread.Open(func() (string, error) { return reread.Text(path) }, k.take)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// take has the list be that of the text.
func (k *Keys) take(text string) error {
	list, err := listOf(k.path, text, k.Now())
	if err != nil {
		return err
	}
	k.list.Store(list)
	return nil
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

// IsStale says whether the file has something that can't be taken, or can't be read: the list is
// that of before.
func (k *Keys) IsStale() bool { return k != nil && k.file != nil && k.file.IsStale() }

// Follow reads the file every second, until ctx ends. A file that can't be read or taken changes
// nothing, and is logged once. Keys that are no file's don't change: it returns at once.
func (k *Keys) Follow(ctx context.Context, log *slog.Logger) {
	if k.file != nil {
		reread.Follow(ctx, func() { k.check(log) })
	}
}

// check reads the file once.
func (k *Keys) check(log *slog.Logger) {
	old := k.Now()
	taken, err := k.file.Look()
	switch now := k.Now(); {
	case err != nil:
		log.Error("the tokens can't be read again: those of before go on counting, also such as were taken out of the file since",
			"error", err, "tokens", now.Len())
	case taken:
		log.Info("the tokens were read again", "file", k.path, "tokens", now.Len(), "added", now.without(old), "removed", old.without(now))
	}
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
