package spendflush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// booksView is which books a pipeline works for, and what of its servers is theirs. It isn't
// changed.
type booksView struct {
	id           spend.BooksID // zero while they are unknown
	fromPostgres bool          // by Postgres; else by a note
	queue        spend.Queue   // nil without one
	locker       spend.Locker
}

// booksHolder finds out which books the database has. It is safe for concurrent use.
type booksHolder struct {
	p *Pipeline

	mu        sync.Mutex // no I/O under it
	view      booksView
	nextAsk   time.Time
	asking    bool
	noted     bool            // the notes say so
	witnesses []spend.Witness // as last read
	checked   bool            // it is known whether one does
	conflict  time.Time       // since when another database uses the queue under the same id; zero if none does
	logged    bool            // that it lasts was logged
	left      string          // what of other books is left in the journal
	err       error           // why Postgres hasn't told, when it was last asked
}

// How often it is looked at the books.
const (
	booksAsk     = time.Second            // while Postgres hasn't told
	booksFirst   = 100 * time.Millisecond // until it is known whether another database uses the queue
	booksCheck   = 2 * time.Second        // after that
	booksTimeout = time.Second            // one question
)

func (h *booksHolder) current() booksView {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.view
}

func (h *booksHolder) id() spend.BooksID { return h.current().id }

// conflictLasts is after what time a conflict is no failover that lost the last commits: the
// witness shown has expired within ten seconds by then.
const conflictLasts = 15 * time.Second

// trouble says what is wrong with the books, "" if nothing is.
func (h *booksHolder) trouble() (text string, twoDatabases bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.conflict.IsZero() && h.p.time.Now().Sub(h.conflict) >= conflictLasts {
		return spend.ErrTwoDatabases.Error(), true
	}
	return h.left, false
}

// leave logs batches of other books that are left in the journal.
func (h *booksHolder) leave(batches []*spend.Batch, here spend.BooksID) {
	if len(batches) == 0 {
		return
	}
	var updates int64
	var amount spend.Amount
	for _, b := range batches {
		updates, amount = updates+b.Updates, amount.Add(b.Amount)
	}
	of := batches[0].Books
	h.mu.Lock()
	h.left = fmt.Sprintf("the journal has batches of other books, %s, which stay there: run an instance on their database with this journal", of)
	h.mu.Unlock()
	h.p.log.Error("THE JOURNAL HAS BATCHES OF OTHER BOOKS: they stay there. Run an instance on the database of those books with this journal",
		"of_books", of.String(), "books", here.String(), "batches", len(batches), "updates", updates, "amount", amount)
}

// recheck has Postgres asked anew: it has refused a flush as one of other books.
func (h *booksHolder) recheck() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.view.fromPostgres, h.nextAsk = false, time.Time{}
}

// learn takes the id that Postgres has told, or a note.
func (h *booksHolder) learn(id spend.BooksID, fromPostgres bool) { h.learnShown(id, fromPostgres, nil) }

// learnShown is learn where it is known already whether another database uses the queue under the
// same id.
func (h *booksHolder) learnShown(id spend.BooksID, fromPostgres bool, s *showing) {
	h.mu.Lock()
	before := h.view
	if id == before.id && (fromPostgres == before.fromPostgres || before.fromPostgres) || !fromPostgres && !before.id.IsZero() {
		h.mu.Unlock()
		return
	}

	h.view.fromPostgres = fromPostgres
	if id != before.id {
		h.view = h.p.viewOf(id, fromPostgres)
		h.noted, h.witnesses, h.conflict, h.checked = false, nil, time.Time{}, false
	}

	if s != nil {
		h.witnesses, h.checked = s.own, true
		if !s.shown && h.conflict.IsZero() {
			h.conflict = h.p.time.Now()
		}
	}
	h.mu.Unlock()
	if id != before.id {
		for _, c := range h.p.allCommitters() {
			c.rewind.reset()
		}
	}

	log := h.p.log.With("books", id.String())
	switch {
	case before.id.IsZero() && fromPostgres:
		log.Info("Postgres has told which books it has")
	case before.id.IsZero():
		log.Info("Postgres has not told yet which books it has; a note of an earlier time says so")
	case before.id != id:
		log.Error("POSTGRES HAS OTHER BOOKS THAN BEFORE: this instance goes on for those that it has now. What was pushed for the "+
			"books before stays where it is, under their keys, and a copy goes to quarantine", "before", before.id.String())
	}

	for _, r := range h.p.relays {
		r.wake()
	}
}

// viewOf returns what of the servers belongs to the books.
func (p *Pipeline) viewOf(id spend.BooksID, fromPostgres bool) booksView {
	v := booksView{id: id, fromPostgres: fromPostgres, queue: p.cfg.Queue, locker: p.cfg.Locker}
	if q, ok := v.queue.(spend.BooksQueue); ok {
		v.queue = q.ForBooks(id)
	}
	if l, ok := v.locker.(spend.BooksLocker); ok {
		v.locker = l.ForBooks(id)
	}
	return v
}

func (p *Pipeline) allCommitters() (list []*committer) {
	p.committersMu.Lock()
	defer p.committersMu.Unlock()
	for _, c := range p.committers {
		if c != nil {
			list = append(list, c)
		}
	}
	return list
}

// ask finds out which books the database has, unless another goroutine does so or it was tried a
// moment ago. While they are unknown and Postgres doesn't answer, a note will do. The error says
// why Postgres hasn't told.
func (h *booksHolder) ask(ctx context.Context) (booksView, error) {
	now := h.p.time.Now()
	h.mu.Lock()
	if h.view.fromPostgres || h.asking || now.Before(h.nextAsk) {
		defer h.mu.Unlock()
		return h.view, h.err
	}
	h.asking, h.nextAsk = true, now.Add(booksAsk)
	h.mu.Unlock()

	id, err := h.askStore(ctx)
	if err == nil {
		h.learnShown(id, true, h.show(ctx, h.p.viewOf(id, true), nil))
		h.note(ctx, id)
	} else if h.id().IsZero() {
		h.readNotes(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking, h.err = false, err
	return h.view, err
}

func (h *booksHolder) askStore(ctx context.Context) (spend.BooksID, error) {
	ctx, cancel := h.p.time.WithTimeout(ctx, booksTimeout)
	defer cancel()
	id, err := h.p.cfg.Store.Books(ctx)
	if err == nil && id.IsZero() {
		err = errors.New("the store names no books")
	}
	if err != nil {
		return spend.BooksID{}, fmt.Errorf("%w: %w", spend.ErrBooksUnknown, err)
	}
	return id, nil
}

// notes returns where notes are, and under which name.
func (h *booksHolder) notes() (all []spend.BooksNotes, place string) {
	placer, ok := h.p.cfg.Store.(spend.BooksPlacer)
	if !ok {
		return nil, ""
	}
	for _, at := range []any{h.p.cfg.Journal, h.p.cfg.Queue} {
		if notes, ok := at.(spend.BooksNotes); ok {
			all = append(all, notes)
		}
	}
	return all, placer.BooksPlace()
}

func (h *booksHolder) readNotes(ctx context.Context) {
	all, place := h.notes()
	for _, notes := range all {
		ctx, cancel := h.p.time.WithTimeout(ctx, booksTimeout)
		id, err := notes.NotedBooks(ctx, place)
		cancel()
		if err != nil {
			h.p.log.Debug("the note of the books can't be read", "error", err)
		} else if !id.IsZero() {
			h.learn(id, false)
			return
		}
	}
}

// note notes which books Postgres has told of.
func (h *booksHolder) note(ctx context.Context, id spend.BooksID) {
	h.mu.Lock()
	noted := h.noted
	h.mu.Unlock()
	if noted {
		return
	}
	noted = true
	all, place := h.notes()
	for _, notes := range all {
		ctx, cancel := h.p.time.WithTimeout(ctx, booksTimeout)
		if err := notes.NoteBooks(ctx, place, id); err != nil {
			noted = false
			h.p.log.Debug("the books can't be noted", "error", err)
		}
		cancel()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noted = noted && h.view.id == id
}

// checkWitness notes the books, and sees whether another database uses the queue under the same id.
func (h *booksHolder) checkWitness(ctx context.Context) {
	view := h.current()
	if !view.fromPostgres {
		return
	}
	h.note(ctx, view.id)
	h.mu.Lock()
	own := h.witnesses
	h.mu.Unlock()
	if s := h.show(ctx, view, own); s != nil {
		h.conclude(view.id, s)
	}
}

// showing is whether the queue shows a witness of this database.
type showing struct {
	own   []spend.Witness // as last read
	shown bool
}

// showTries is how often a witness that isn't known is looked for in the database before it is
// taken for another one's.
const showTries = 10

// canShow says whether store and queue know of witnesses.
func (h *booksHolder) canShow(view booksView) (store spend.BooksWitness, queue spend.WitnessedQueue, can bool) {
	store, reads := h.p.cfg.Store.(spend.BooksWitness)
	queue, shows := view.queue.(spend.WitnessedQueue)
	return store, queue, reads && shows
}

// show has the queue show a witness of this database, unless it shows another one's. It returns nil
// if that can't be told. own are those known before.
func (h *booksHolder) show(ctx context.Context, view booksView, own []spend.Witness) *showing {
	store, queue, can := h.canShow(view)
	if !can {
		return nil
	}

	var shown []spend.Witness
	// Again and again: between the two calls another instance may show a newer one, as when many
	// begin at once.
	for try := 0; try < showTries && len(shown) == 0; try++ {
		callCtx, cancel := h.p.time.WithTimeout(ctx, booksTimeout)
		// A process that begins shows one that no copy made before has.
		read, err := store.Witnesses(callCtx, view.id, len(own) == 0)
		cancel()
		switch {
		case errors.Is(err, spend.ErrOtherBooks):
			h.recheck()
			return nil
		case err == nil:
			own = append(slices.Clip(read), except(own, read)...)
			own = own[:min(len(own), maxWitnesses)]
		case len(own) == 0:
			h.p.log.Debug("the database has no witness written down", "error", err)
			return nil
		} // else what is shown is kept up by the last ones known, while Postgres is away
		callCtx, cancel = h.p.time.WithTimeout(ctx, booksTimeout)
		shown, err = queue.ShowWitnesses(callCtx, own)
		cancel()
		if err != nil {
			h.p.log.Debug("the queue can't be asked for the witness that it shows", "error", err)
			return nil
		}
	}

	// Those of other instances, too: while Postgres is away this process can't read them, and would
	// not know them next time.
	own = append(slices.Clip(shown), except(own, shown)...)
	return &showing{own[:min(len(own), maxWitnesses)], len(shown) > 0}
}

// maxWitnesses bounds how many witnesses a process remembers.
const maxWitnesses = 256

// except returns those of the witnesses that aren't among the others. What this process has read
// once it goes on taking for its database's: a database that was turned back has lost the last
// ones, and is no copy.
func except(known, others []spend.Witness) []spend.Witness {
	return slices.DeleteFunc(slices.Clone(known), func(w spend.Witness) bool { return slices.Contains(others, w) })
}

// conclude takes note of whether the queue shows a witness of this database.
func (h *booksHolder) conclude(id spend.BooksID, s *showing) {
	shown := s.shown
	h.mu.Lock()
	if h.view.id != id {
		h.mu.Unlock()
		return
	}

	before, loggedBefore := h.conflict, h.logged
	h.witnesses, h.checked = s.own, true
	now := h.p.time.Now()
	switch {
	case shown:
		h.conflict, h.logged = time.Time{}, false
	case before.IsZero():
		h.conflict = now
	default:
		h.logged = now.Sub(before) >= conflictLasts
	}

	lasts := h.logged && !loggedBefore
	h.mu.Unlock()

	log := h.p.log.With("books", id.String())
	switch {
	case lasts:
		log.Error("TWO DATABASES USE THE SAME BOOKS' ID in this queue: this instance writes directly to its own, and leaves the queue " +
			"to the other one. Run `spendflush books new-id` on the copy")
	case !shown && before.IsZero():
		log.Warn("the queue is used by another database with the same books' id, or Postgres has lost its last commits; " +
			"what this instance has is written directly until that is over")
	case shown && !before.IsZero():
		log.Info("no other database uses the queue under the id of these books any more")
	}
}

// watchBooks works until ctx ends.
func (p *Pipeline) watchBooks(ctx context.Context) {
	for {
		if view, _ := p.books.ask(ctx); view.fromPostgres {
			p.books.checkWitness(ctx)
		}
		wait := booksCheck
		if !p.books.current().fromPostgres || errors.Is(p.books.mayUseQueue(), errUnchecked) {
			wait = booksFirst // batches wait for it, and a read of marks may bring it
		}
		if !p.time.Sleep(ctx, wait, nil) {
			return
		}
	}
}

// errUnchecked is why the queue isn't used for a moment.
var errUnchecked = fmt.Errorf("%w, nor whether another database uses the queue", spend.ErrBooksUnknown)

// mayUseQueue returns why the queue isn't to be used now, nil if it is.
func (h *booksHolder) mayUseQueue() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, _, can := h.canShow(h.view)
	switch {
	case !h.conflict.IsZero():
		return spend.ErrTwoDatabases
	case h.view.fromPostgres && can && !h.checked:
		return errUnchecked
	}
	return nil
}
