package access

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// Bounds of tokens. Those that are shorter, or made of fewer different characters, could be
// guessed. Each request is compared with every token, so that there is a most.
const (
	MinTokenLength = 16
	MinTokenKinds  = 8
	MaxTokens      = 1000
)

// AllowedTokens says what a token may look like.
const AllowedTokens = "bearer tokens of 16 characters or more, 8 of them different, without blanks"

// Rounds of PBKDF2. A name is seen in logs: who guesses at the token behind it pays nameRounds for
// each guess. KeyRounds make each guess at the token behind a stolen cookie cost some tenth of a
// second.
const (
	nameRounds = 20_000
	KeyRounds  = 600_000
)

// Token is one that opens the API. It is made by a List and doesn't change, but for what it has
// booked.
type Token struct {
	Name  string // of the caller, the same on all instances and after a restart
	Roles Roles

	hash   [sha256.Size]byte
	key    func() []byte
	booked *atomic.Int64 // shared by all tokens of the name
}

// SessionKey signs the sessions of the token. The first call takes a tenth of a second.
func (t *Token) SessionKey() []byte { return t.key() }

// AddBooked notes that so many updates were recorded for the caller.
func (t *Token) AddBooked(updates int64) { t.booked.Add(updates) }

// derive makes n bytes of a token that can't be turned back.
func derive(text, purpose string, rounds, n int) []byte {
	key, err := pbkdf2.Key(sha256.New, text, []byte(purpose), rounds, n)
	if err != nil {
		panic("access: nothing can be derived from a token: " + err.Error()) // of a hash or length that isn't allowed
	}
	return key
}

// plainPrefix begins the names that are made of tokens. Names that are given can't begin so.
const plainPrefix = "token-"

// plainName is the stable name of a token that was given without one.
func plainName(text string) string {
	return plainPrefix + hex.EncodeToString(derive(text, "spendflush token name", nameRounds, 4))
}

// entry is a token as it was written, and where.
type entry struct {
	name  string // "": it was given without one
	roles Roles
	text  string
	place string // such as: line 3
}

var (
	errWeak      = errors.New("the token is not allowed; allowed are " + AllowedTokens)
	errCharacter = errors.New("the token is empty, or has blanks or characters beyond ASCII")
)

// check says what is wrong with a token, without its text.
func check(text string) error {
	if text == "" || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return errCharacter
	}
	return nil
}

// IsAllowed says whether the text may be a token: it is what AllowedTokens says.
func IsAllowed(text string) bool { return check(text) == nil && !isWeak(text) }

// isWeak says whether the token could be guessed.
func isWeak(text string) bool {
	kinds := map[rune]bool{}
	for _, c := range text {
		kinds[c] = true
	}
	return len(text) < MinTokenLength || len(kinds) < MinTokenKinds
}

// newTokens makes tokens of the entries. Those that old has, too, are taken from it.
func newTokens(entries []entry, old *List) ([]*Token, error) {
	if len(entries) > MaxTokens {
		return nil, fmt.Errorf("there are %d tokens; allowed are %d", len(entries), MaxTokens)
	}
	places := map[[sha256.Size]byte]string{}
	known := map[string]*Token{} // by name
	tokens := make([]*Token, 0, len(entries))
	for _, e := range entries {
		hash := sha256.Sum256([]byte(e.text))
		if first, ok := places[hash]; ok {
			return nil, fmt.Errorf("%s: it has the token of %s", e.place, first)
		}
		places[hash] = e.place
		same := old.byHash(hash)
		t := &Token{Name: e.name, Roles: e.roles, hash: hash}
		switch {
		case t.Name != "":
		case same != nil && isPlain(same.Name):
			t.Name = same.Name
		default:
			t.Name = plainName(e.text)
		}
		if namesake := known[t.Name]; namesake != nil && namesake.Roles != t.Roles {
			return nil, fmt.Errorf("%s: the roles of %s are %s elsewhere; tokens of one name have the same roles", e.place, t.Name, namesake.Roles)
		}
		switch {
		case same == nil:
			t.key = sync.OnceValue(func() []byte { return derive(e.text, "spendflush session", KeyRounds, sha256.Size) })
			t.booked = bookedOf(t.Name, known, old)
		case same.Name == t.Name && same.Roles == t.Roles:
			t = same
		default:
			t.key, t.booked = same.key, bookedOf(t.Name, known, old)
		}
		known[t.Name] = t
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// isPlain says whether the name is of the kind that is made of a token.
func isPlain(name string) bool { return strings.HasPrefix(name, plainPrefix) }

// bookedOf is the counter of the name, which goes on while the name is listed.
func bookedOf(name string, known map[string]*Token, old *List) *atomic.Int64 {
	if t := known[name]; t != nil {
		return t.booked
	}
	if t := old.byName(name); t != nil {
		return t.booked
	}
	return &atomic.Int64{}
}
