package httpapi

import (
	"context"
	"maps"
	"sync"
	"time"
)

const (
	signedOutEvery   = 2 * time.Second // how often the list is read, at most; as long other instances take an ended session
	signedOutTimeout = time.Second     // for reading it

	// signedOutPatience is how long a new instance leaves it open whether older sessions were
	// ended. Then their owners may sign in anew, for which Postgres isn't needed.
	signedOutPatience = 30 * time.Second
	signOutTimeout    = 5 * time.Second // for writing to it
)

// fullList is how many ended sessions Postgres tells at most: of each token those that end last,
// and of all tokens as many as there is room for.
const fullList = 10_000

// signedOut knows the sessions that were ended before their time, by this instance or another one.
// They are in Postgres, and read again when a cookie comes. While Postgres is away what was read
// last counts, so that the page, which tells what is wrong then, stays open.
type signedOut struct {
	reader  Reader
	started time.Time

	turn sync.Mutex // held by who asks Postgres

	mu      sync.Mutex // guards what follows; never held while waiting
	ended   map[[idBytes]byte]time.Time
	unsaid  map[[idBytes]byte]time.Time // those that Postgres isn't known to have
	asked   time.Time
	wasRead bool
	cuts    map[[tagBytes]byte]time.Time // what cutsOf says of the list
}

func newSignedOut(reader Reader) *signedOut {
	return &signedOut{reader: reader, started: time.Now(), ended: map[[idBytes]byte]time.Time{}, unsaid: map[[idBytes]byte]time.Time{}}
}

// has says whether the session was ended. It may ask Postgres, and waits for that for at most a
// second. While the list could never be read, sessions that are older than this process may have
// been ended. They are taken to be, but not in the first moments of the process, when Postgres may
// just not have been asked yet: unknown.
func (o *signedOut) has(ctx context.Context, s session) (ended, unknown bool) {
	o.refresh(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !s.ends.After(o.cuts[s.id.tag()]) {
		return true, false
	}
	if _, ended = o.ended[s.id]; ended || o.wasRead || !s.began().Before(o.started.Truncate(time.Second)) {
		return ended, false
	}
	unknown = time.Since(o.started) < signedOutPatience
	return !unknown, unknown
}

// add ends the session, here at once. The error says that Postgres could not be told; that is tried
// again.
func (o *signedOut) add(ctx context.Context, s session) error {
	o.mu.Lock()
	o.ended[s.id], o.unsaid[s.id] = s.ends, s.ends
	o.mu.Unlock()
	o.turn.Lock()
	defer o.turn.Unlock()
	return o.say(ctx)
}

// refresh reads the list, unless that was done lately or is being done.
func (o *signedOut) refresh(ctx context.Context) {
	o.mu.Lock()
	isDue := time.Since(o.asked) >= signedOutEvery
	o.mu.Unlock()
	if !isDue || !o.turn.TryLock() {
		return
	}
	defer o.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, signedOutTimeout)
	defer cancel()
	err := o.say(ctx)
	var ended map[[idBytes]byte]time.Time
	if err == nil {
		ended, err = o.reader.SignedOut(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = time.Now()
	if err == nil {
		o.cuts = cutsOf(ended)
		maps.Copy(ended, o.unsaid)
		o.ended, o.wasRead = ended, true
	}
}

// cutsOf returns, for each token of which the list may have left sessions out, up to which end it
// may have. Whoever has a token can end sessions of it until the list is full: none that was ended
// may open anything again by that, and the sessions of other tokens must not end. A full list has
// the last session of each token before it has the second of any, and so on. What has fewer than
// the longest but one is whole. (There are more places than MaxTokens has tokens, many times.)
func cutsOf(ended map[[idBytes]byte]time.Time) map[[tagBytes]byte]time.Time {
	if len(ended) < fullList {
		return nil
	}
	counts, cuts, most := map[[tagBytes]byte]int{}, map[[tagBytes]byte]time.Time{}, 0
	for id, ends := range ended {
		tag := sessionID(id).tag()
		counts[tag]++
		most = max(most, counts[tag])
		if first, ok := cuts[tag]; !ok || ends.Before(first) {
			cuts[tag] = ends
		}
	}
	maps.DeleteFunc(cuts, func(tag [tagBytes]byte, _ time.Time) bool { return counts[tag] < most-1 })
	return cuts
}

// say tells Postgres of the sessions that were ended here. The caller must have the turn.
func (o *signedOut) say(ctx context.Context) error {
	o.mu.Lock()
	unsaid := maps.Clone(o.unsaid)
	o.mu.Unlock()
	for id, ends := range unsaid {
		if ends.After(time.Now()) {
			if err := o.reader.SignOut(ctx, id, ends); err != nil {
				return err
			}
		}
		o.mu.Lock()
		delete(o.unsaid, id)
		o.mu.Unlock()
	}
	return nil
}
