package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// tokens are the hashes of the bearer tokens that open the API. None: it is open.
type tokens [][sha256.Size]byte

// newTokens hashes the tokens. The errors name the place of a token, never its text.
func newTokens(texts []string) (tokens, error) {
	hashes := make(tokens, len(texts))
	for i, text := range texts {
		if text == "" || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
			return nil, fmt.Errorf("token %d of Tokens is empty, or has blanks or characters beyond ASCII", i+1)
		}
		hashes[i] = sha256.Sum256([]byte(text))
	}
	return hashes, nil
}

const challenge = `Bearer realm="spendflush"`

// have says whether one of the tokens has this hash. How long it takes says nothing about the tokens but their number.
func (t tokens) have(hash [sha256.Size]byte) bool {
	match := 0
	for i := range t {
		match |= subtle.ConstantTimeCompare(t[i][:], hash[:])
	}
	return match == 1
}

// check returns nil if the request has one of the tokens or, without any, the cookie of a session; or if none is needed.
func (t tokens) check(r *http.Request) *problem {
	if len(t) == 0 {
		return nil
	}
	given := r.Header["Authorization"]
	if len(given) == 0 {
		return t.checkCookie(r)
	}
	scheme, text, _ := strings.Cut(given[0], " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(text)))
	if !t.have(hash) || len(given) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return unauthorized.because("the token is not one of those of this instance").
			with("WWW-Authenticate", challenge+`, error="invalid_token"`)
	}
	return nil
}

func (t tokens) checkCookie(r *http.Request) *problem {
	for _, cookie := range r.CookiesNamed(sessionCookie) {
		if t.opens(cookie.Value, time.Now()) {
			return nil
		}
	}
	return unauthorized.because("send one as \"Authorization: Bearer …\", or sign in").with("WWW-Authenticate", challenge)
}
