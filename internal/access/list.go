package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
)

// List is what opens the API at one time. It doesn't change. A nil or empty one has no tokens.
type List struct {
	tokens []*Token
	names  int // different ones
}

// Plain makes a list of tokens that have no names of their own, and all roles. The error names the
// place of a token, never its text.
func Plain(texts ...string) (*List, error) {
	entries := make([]entry, len(texts))
	for i, text := range texts {
		entries[i] = entry{roles: All, text: text, place: fmt.Sprintf("token %d", i+1)}
		if err := check(text); err != nil {
			return nil, fmt.Errorf("token %d: %w", i+1, err)
		}
	}
	return newList(entries, nil)
}

func newList(entries []entry, old *List) (*List, error) {
	tokens, err := newTokens(entries, old)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, t := range tokens {
		names[t.Name] = true
	}
	return &List{tokens: tokens, names: len(names)}, nil
}

// Len is how many tokens there are.
func (l *List) Len() int {
	if l == nil {
		return 0
	}
	return len(l.tokens)
}

// Names is how many different names they have.
func (l *List) Names() int {
	if l == nil {
		return 0
	}
	return l.names
}

// Find returns the token with the text, nil if there is none. How long it takes says nothing about
// the tokens but their number.
func (l *List) Find(text string) *Token {
	if l == nil {
		return nil
	}
	return l.byHash(sha256.Sum256([]byte(text)))
}

func (l *List) byHash(hash [sha256.Size]byte) *Token {
	if l == nil {
		return nil
	}
	place := 0
	for i, t := range l.tokens { // no two have the same hash
		place |= (i + 1) * subtle.ConstantTimeCompare(t.hash[:], hash[:])
	}
	if place == 0 {
		return nil
	}
	return l.tokens[place-1]
}

func (l *List) byName(name string) *Token {
	if l == nil {
		return nil
	}
	for _, t := range l.tokens {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Has says whether the token is in the list, with the name and roles that it has.
func (l *List) Has(token *Token) bool {
	if l == nil || token == nil {
		return false
	}
	return l.byHash(token.hash) == token
}

// Each calls f for each token, until f is false.
func (l *List) Each(f func(*Token) bool) {
	if l == nil {
		return
	}
	for _, t := range l.tokens {
		if !f(t) {
			return
		}
	}
}

// Booked returns how many updates were recorded for each name.
func (l *List) Booked() map[string]int64 {
	booked := map[string]int64{}
	l.Each(func(t *Token) bool {
		booked[t.Name] = t.booked.Load()
		return true
	})
	return booked
}
