package httpapi

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// A browser signs in with a token and gets a cookie that scripts can't read and that goes to no other site. The cookie
// doesn't hold the token, and no instance keeps anything of it: it is the time at which it ends, signed with a key that is
// made of the token. So every instance with the same tokens takes it, and none does once the token is gone.
const (
	sessionCookie = "spendflush_session"
	sessionFor    = 12 * time.Hour
	sessionBytes  = 8 + sha256.Size // when it ends, in Unix seconds; the signature of that

	maxSmallBody = 4 << 10 // of a request that isn't about updates
)

// sign returns the signature, made with the hash of a token, of a session that ends then.
func sign(key [sha256.Size]byte, ends []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("spendflush session, version 1\x00"))
	mac.Write(ends)
	return mac.Sum(nil)
}

// newSession returns the value of the cookie for whoever has sent the token of that hash.
func newSession(key [sha256.Size]byte, ends time.Time) string {
	value := binary.BigEndian.AppendUint64(nil, uint64(ends.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(value, sign(key, value)...))
}

// opens says whether the value is of a session that was made with one of the tokens and hasn't ended. One that would
// last longer than sessions do was not made here.
func (t tokens) opens(value string, now time.Time) bool {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(raw) != sessionBytes {
		return false
	}
	match := 0
	for i := range t {
		match |= subtle.ConstantTimeCompare(raw[8:], sign(t[i], raw[:8]))
	}
	left := time.Unix(int64(binary.BigEndian.Uint64(raw)), 0).Sub(now)
	return match == 1 && left > 0 && left <= sessionFor
}

// session is the answer to GET /v1/session.
type session struct {
	Needed   bool `json:"needed"`    // a token is needed
	SignedIn bool `json:"signed_in"` // this request has what is needed
}

func (a *API) session(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	writeJSON(w, "application/json", http.StatusOK, session{Needed: len(a.tokens) > 0, SignedIn: a.tokens.check(r) == nil})
	return nil
}

// signIn gives a cookie for a token.
func (a *API) signIn(w http.ResponseWriter, r *http.Request) *problem {
	var body struct {
		Token string `json:"token"`
	}
	if p := a.readSmall(w, r, &body); p != nil {
		return p
	}
	if len(a.tokens) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	hash := sha256.Sum256([]byte(body.Token))
	if !a.tokens.have(hash) {
		return unauthorized.because("the token is not one of those of this instance").with("WWW-Authenticate", challenge)
	}
	a.setSession(w, r, newSession(hash, time.Now().Add(sessionFor)), int(sessionFor/time.Second))
	return nil
}

// signOut has the browser forget the cookie.
func (a *API) signOut(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	a.setSession(w, r, "", -1)
	return nil
}

func (a *API) setSession(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
	})
	w.WriteHeader(http.StatusNoContent)
}

// readSmall reads a small JSON body into v. There may be no parameters beside it.
func (a *API) readSmall(w http.ResponseWriter, r *http.Request, v any) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	if form, p := formatOf(r.Header); p != nil || form != formatJSON {
		return unsupportedMediaType.because("the body must be application/json, in UTF-8 and not compressed")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSmallBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return contentTooLarge.because("the body is larger than %d bytes", maxSmallBody)
	}
	if err != nil {
		return a.readProblem(err)
	}
	if err := json.UnmarshalRead(bytes.NewReader(body), v, json.RejectUnknownMembers(true)); err != nil {
		return invalidJSON.because("the body can't be read: %s", plainJSONError(err))
	}
	return nil
}

// plainJSONError says where a body is wrong. The library's error may quote what it is about, which may be a token.
func plainJSONError(err error) string {
	if wrong, ok := errors.AsType[*json.SemanticError](err); ok && wrong.JSONPointer != "" {
		return "at " + string(wrong.JSONPointer) + " is something else than is allowed there"
	}
	return "it is not a JSON object, or has members that are unknown or given twice"
}
