package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
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

// check returns nil if the request has one of the tokens, or none is needed. How long it takes says nothing about the
// tokens but their number.
func (t tokens) check(r *http.Request) *problem {
	if len(t) == 0 {
		return nil
	}
	const challenge = `Bearer realm="spendflush"`
	given := r.Header["Authorization"]
	if len(given) == 0 {
		return unauthorized.because("send one as \"Authorization: Bearer …\"").with("WWW-Authenticate", challenge)
	}
	scheme, text, _ := strings.Cut(given[0], " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(text)))
	match := 0
	for i := range t {
		match |= subtle.ConstantTimeCompare(t[i][:], hash[:])
	}
	if match != 1 || len(given) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return unauthorized.because("the token is not one of those of this instance").
			with("WWW-Authenticate", challenge+`, error="invalid_token"`)
	}
	return nil
}
