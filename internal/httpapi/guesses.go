package httpapi

import (
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/internal/gate"
)

const (
	guessesAtOnce = 10              // wrong tokens from an address, until it has to pause
	guessEvery    = 6 * time.Second // then one more may be sent
	maxGuessers   = 10_000          // addresses that are remembered
	warnEvery     = time.Second
)

var guessRate = rate{guessesAtOnce, guessEvery}

// guesses slows down who tries tokens. An address that has sent ten wrong ones has to pause: none
// of the tokens that it sends is looked at, but for those that were right before from there. So
// whoever guesses behind a proxy doesn't keep out those who come by the same way.
type guesses struct {
	log *slog.Logger

	missing, wrong, paused atomic.Int64 // requests refused, by why

	seed  maphash.Seed
	right [1024]rightSet // of hashes of an address and a token that was right from there

	mu     sync.Mutex
	until  map[netip.Addr]time.Time // by when the failures of an address are forgiven
	warned time.Time

	forgiven time.Time // when forgive last looked
	unsaid   int       // wrong tokens since the last line of the log
	clock    func() time.Time
}

// rightSet has the hashes that share a place in the table: as many as are read at once from memory.
type rightSet [8]atomic.Uint64

func (s *rightSet) has(hash uint64) bool {
	for i := range s {
		if s[i].Load() == hash {
			return true
		}
	}
	return false
}

// add puts the hash where nothing is yet, else in place of one of the others.
func (s *rightSet) add(hash uint64) {
	for i := range s {
		if s[i].CompareAndSwap(0, hash) {
			return
		}
	}
	s[hash>>32%uint64(len(s))].Store(hash)
}

func newGuesses(log *slog.Logger) *guesses {
	return &guesses{log: log, seed: maphash.MakeSeed(), until: map[netip.Addr]time.Time{}, clock: time.Now}
}

// check returns nil if the token that the address has sent opens the API. A wrong one is nil.
func (g *guesses) check(from caller) *problem {
	address := from.address
	if from.token != nil {
		hash := maphash.Comparable(g.seed, from)
		known := &g.right[hash%uint64(len(g.right))]
		if known.has(hash) {
			return nil
		}
		if wait := g.pause(address, false); wait > 0 {
			return g.tooMany(wait)
		}
		known.add(hash)
		return nil
	}
	if wait := g.pause(address, true); wait > 0 {
		return g.tooMany(wait)
	}
	g.wrong.Add(1)
	return unauthorized.because("the token is not one of those of this instance")
}

func (g *guesses) tooMany(wait time.Duration) *problem {
	g.paused.Add(1)
	p := tooManyGuesses.because("%d wrong tokens came from this address; this one was not looked at", guessesAtOnce)
	p.retryAfter = wait
	return p
}

// pause returns for how long nothing that the address sends is to be looked at. If that isn't so,
// failed notes one more wrong token.
func (g *guesses) pause(address netip.Addr, failed bool) time.Duration {
	key := gate.NetworkOf(address)
	now := g.clock()
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.until[key]
	if !ok && len(g.until) >= maxGuessers {
		g.forgive(now)
		if len(g.until) >= maxGuessers {
			key = netip.Addr{} // that of all others
			until = g.until[key]
		}
	}
	wait, next := guessRate.next(until, now)
	if wait > 0 {
		g.warn(now, address, failed)
		return wait
	}
	if failed {
		g.until[key] = next
		g.warn(now, address, true)
	}
	return 0
}

// forgive forgets the addresses that have sent nothing wrong for a while. It looks at all of them,
// and so not at each guess.
func (g *guesses) forgive(now time.Time) {
	if now.Sub(g.forgiven) < guessEvery {
		return
	}
	g.forgiven = now
	for key, until := range g.until {
		if until.Before(now) {
			delete(g.until, key)
		}
	}
}

// warn says at most once a second that wrong tokens are sent.
func (g *guesses) warn(now time.Time, address netip.Addr, failed bool) {
	if !failed {
		return
	}
	g.unsaid++
	if now.Sub(g.warned) < warnEvery {
		return
	}
	g.log.Warn("wrong tokens are sent", "remote", address, "since_the_last_line", g.unsaid)
	g.warned, g.unsaid = now, 0
}
