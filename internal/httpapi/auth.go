package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// tokens are the bearer tokens that open the API. None: it is open.
type tokens []token

// token is one of them. Its place in the settings, from 1, is its name in the log and in the books.
type token struct {
	hash [sha256.Size]byte
	key  func() []byte // signs sessions; made once, at the first need, because that is slow
}

// newTokens hashes the tokens. The errors name the place of a token, never its text.
func newTokens(texts []string) (tokens, error) {
	list := make(tokens, len(texts))
	for i, text := range texts {
		if text == "" || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
			return nil, fmt.Errorf("token %d of Tokens is empty, or has blanks or characters beyond ASCII", i+1)
		}
		list[i] = token{hash: sha256.Sum256([]byte(text)), key: sync.OnceValue(func() []byte { return sessionKey(text) })}
	}
	return list, nil
}

const challenge = `Bearer realm="spendflush"`

// find returns the place of the token, from 1; 0 if it is none of these. How long it takes says nothing about the tokens
// but their number.
func (t tokens) find(text string) (place int) {
	hash := sha256.Sum256([]byte(text))
	for i := range t {
		place |= (i + 1) * subtle.ConstantTimeCompare(t[i].hash[:], hash[:])
	}
	return place
}

// caller is who sent a request, as far as is known.
type caller struct {
	token   int // its place; 0 where none is needed
	address netip.Addr
}

// String is what the log and the books have of it.
func (c caller) String() string {
	if c.token == 0 {
		return "no token, " + c.address.String()
	}
	return fmt.Sprintf("token %d, %s", c.token, c.address)
}

// authenticate returns who sent the request, if it has one of the tokens or, without any, the cookie of a session; or if
// none is needed.
func (a *API) authenticate(r *http.Request) (caller, *problem) {
	from := caller{address: a.clientOf(r)}
	if len(a.tokens) == 0 {
		return from, nil
	}
	given := r.Header["Authorization"]
	if len(given) == 0 {
		return a.checkCookie(r, from)
	}
	scheme, text, _ := strings.Cut(given[0], " ")
	if len(given) != 1 || !strings.EqualFold(scheme, "Bearer") {
		text = ""
	}
	var p *problem
	if from.token, p = a.checkToken(from.address, strings.TrimSpace(text)); p != nil && p.Status == http.StatusUnauthorized {
		p.with("WWW-Authenticate", challenge+`, error="invalid_token"`)
	}
	return from, p
}

// checkToken returns the place of the token.
func (a *API) checkToken(address netip.Addr, text string) (place int, p *problem) {
	place = a.tokens.find(text)
	p = a.guesses.judge(address, place)
	if p != nil {
		place = 0
	}
	return place, p
}

func (a *API) checkCookie(r *http.Request, from caller) (caller, *problem) {
	s, p := a.sessionOf(r)
	switch {
	case p == nil:
		from.token = s.token
	case p.Status == http.StatusUnauthorized:
		a.guesses.missing.Add(1)
	}
	return from, p
}

// sessionOf returns the session that a cookie of the request has, if it has one that is good, or the one of which that isn't known
// yet, with the problem notReady.
func (a *API) sessionOf(r *http.Request) (found session, p *problem) {
	p = unauthorized.because("send one as \"Authorization: Bearer …\", or sign in").with("WWW-Authenticate", challenge)
	for _, cookie := range r.CookiesNamed(cookieName(r)) {
		s, ok := a.tokens.opens(cookie.Value, time.Now())
		if !ok {
			continue
		}
		ended, unknown := a.signedOut.has(r.Context(), s)
		if unknown {
			found, p = s, notReady.because("it is not known yet whether the session was ended").with("Retry-After", "1")
		} else if !ended {
			return s, nil
		}
	}
	return found, p
}
