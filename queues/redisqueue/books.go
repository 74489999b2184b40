package redisqueue

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/abandon"
	"github.com/spendflush/spendflush/spend"
)

var (
	_ spend.BooksQueue     = (*Queue)(nil)
	_ spend.BooksNotes     = (*Queue)(nil)
	_ spend.WitnessedQueue = (*Queue)(nil)
)

//go:embed witness.lua
var witnessLua string

var witnessScript = redis.NewScript(witnessLua)

// witnessMillis is how long a witness is shown that isn't shown again.
const witnessMillis = 10_000

// ForBooks returns the queue of these books; see spend.BooksQueue. It shares the client, the
// options and what Wait and Unretained know.
func (q *Queue) ForBooks(id spend.BooksID) spend.Queue { return q.Of(id) }

// Of is ForBooks with the type that it has.
func (q *Queue) Of(id spend.BooksID) *Queue {
	other := *q
	other.opts.Prefix = prefixOf(q.root, id)
	return &other
}

// prefixOf returns the beginning of the keys of books.
func prefixOf(root string, id spend.BooksID) string { return root + ":" + id.String() }

func (q *Queue) noteKey(place string) string { return "{" + q.root + ":books:" + place + "}" }

// NotedBooks returns what was noted for the place; see spend.BooksNotes.
func (q *Queue) NotedBooks(ctx context.Context, place string) (spend.BooksID, error) {
	text, err := q.text(ctx, q.noteKey(place), len(spend.BooksID{}.String()))
	if errors.Is(err, redis.Nil) {
		return spend.BooksID{}, nil
	}
	var id spend.BooksID
	if err == nil {
		id, err = spend.ParseBooksID(text)
	}
	if err != nil {
		return spend.BooksID{}, fmt.Errorf("read which books a database has: %w", err)
	}
	return id, nil
}

// NoteBooks replaces what was noted for the place; see spend.BooksNotes.
func (q *Queue) NoteBooks(ctx context.Context, place string, id spend.BooksID) error {
	_, err := abandon.Call(ctx, q.calls, func() (string, error) {
		return q.client.Set(ctx, q.noteKey(place), id.String(), 0).Result()
	})
	if err != nil {
		return fmt.Errorf("note which books a database has: %w", err)
	}
	return nil
}

// ShowWitnesses shows which database uses the queue, by the last 64 of the witnesses; see
// spend.WitnessedQueue.
func (q *Queue) ShowWitnesses(ctx context.Context, own []spend.Witness) (shown []spend.Witness, err error) {
	args := []any{witnessMillis}
	for i := range own {
		args = append(args, own[i][:])
	}
	key := "{" + q.opts.Prefix + ":witness}"
	text, err := abandon.Call(ctx, q.calls, func() (string, error) {
		return witnessScript.Run(ctx, q.client, []string{key}, args...).Text()
	})
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("show which database uses the queue: %w", err)
	}
	for len(text) >= len(spend.Witness{}) {
		shown = append(shown, spend.Witness([]byte(text[:len(spend.Witness{})])))
		text = text[len(spend.Witness{}):]
	}
	return shown, nil
}
