package httpapi

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/spendflush/spendflush/internal/access"
)

// A browser signs in with a token and gets a cookie that scripts can't read and that goes to no
// other site. The cookie doesn't hold the token: it is a random id and the time at which the
// session ends, signed with a key that is made of the token. So every instance with the same tokens
// takes it, also while Postgres is away, and none does once the token is gone. Sessions that were
// ended before their time are told in Postgres (see signedOut).
const (
	plainCookie = "spendflush_session"
	// Over TLS the name has a prefix with which browsers take no cookie of another host name, nor
	// one that travels openly.
	secureCookie = "__Host-" + plainCookie
	// That prefix wants the path /. Below a base path the cookie goes to that path alone, and the
	// prefix is one with which browsers take no cookie that travels openly.
	securePathCookie = "__Secure-" + plainCookie

	sessionFor   = 12 * time.Hour
	idBytes      = 16
	tagBytes     = 8
	sessionHead  = 8 + idBytes // when it ends, in Unix seconds; its id
	sessionBytes = sessionHead + sha256.Size

	maxSmallBody = 4 << 10 // of a request that isn't about updates
)

// sessionID begins with the tag of the token that the session was made with. The rest is random. So
// a token can only make sessions, and end them, that are seen to be its own.
type sessionID [idBytes]byte

func (id sessionID) tag() [tagBytes]byte { return [tagBytes]byte(id[:tagBytes]) }

// session is what a cookie tells.
type session struct {
	id    sessionID
	ends  time.Time
	token *access.Token // that it was made with
}

func (s *session) began() time.Time { return s.ends.Add(-sessionFor) }

// sign returns the signature of a session.
func sign(key, head []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("spendflush session, version 4\x00"))
	mac.Write(head)
	return mac.Sum(nil)
}

// tagOf tells in a cookie which token it was made with, so that the keys of others needn't be made.
func tagOf(token *access.Token) [tagBytes]byte {
	sum := sha256.Sum256([]byte("spendflush session of\x00" + token.Name))
	return [tagBytes]byte(sum[:tagBytes])
}

// newSession returns the value of the cookie for whoever has sent the token.
func newSession(token *access.Token, ends time.Time) string {
	head := make([]byte, sessionHead, sessionBytes)
	binary.BigEndian.PutUint64(head, uint64(ends.Unix()))
	tag := tagOf(token)
	copy(head[8:], tag[:])
	_, _ = rand.Read(head[8+tagBytes:]) // never fails
	return base64.RawURLEncoding.EncodeToString(append(head, sign(token.SessionKey(), head)...))
}

// opens returns the session of the value, if it was made with one of the tokens and hasn't ended by
// time. One that would last longer than sessions do was not made here.
func opens(keys *access.List, value string, now time.Time) (s session, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(raw) != sessionBytes {
		return session{}, false
	}
	head, signature := raw[:sessionHead], raw[sessionHead:]
	copy(s.id[:], head[8:])
	keys.Each(func(t *access.Token) bool { // several may have one name
		if s.id.tag() == tagOf(t) && hmac.Equal(signature, sign(t.SessionKey(), head)) {
			s.token = t
		}
		return s.token == nil
	})
	s.ends = time.Unix(int64(binary.BigEndian.Uint64(head)), 0)
	left := s.ends.Sub(now)
	return s, s.token != nil && left > 0 && left <= sessionFor
}

// isSecure says whether the browser sent the request over TLS, to this instance or to a proxy
// before it.
func isSecure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

func (a *API) cookieName(r *http.Request) string {
	switch {
	case !isSecure(r):
		return plainCookie
	case a.cfg.BasePath != "":
		return securePathCookie
	}
	return secureCookie
}

// sessionState is the answer to GET /v1/session.
type sessionState struct {
	Needed   bool     `json:"needed"`         // a token is needed
	SignedIn bool     `json:"signed_in"`      // this request has what is needed
	Name     string   `json:"name,omitempty"` // of the token; none where none is needed
	Roles    []string `json:"roles"`          // what this request may do
}

func (a *API) session(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	state := sessionState{Needed: a.cfg.Keys.Any(), Roles: []string{}}
	s, p := a.sessionOf(r)
	from := caller{token: s.token}
	if !state.Needed || len(r.Header["Authorization"]) > 0 {
		from, p = a.authenticate(r)
	}
	if p != nil && p.Status == http.StatusServiceUnavailable {
		return p
	}
	state.SignedIn = p == nil
	switch {
	case !state.Needed:
		state.Roles = access.All.Names()
	case state.SignedIn:
		state.Name, state.Roles = from.token.Name, from.token.Roles.Names()
	}
	writeJSON(w, "application/json", http.StatusOK, state)
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
	if !a.cfg.Keys.Any() {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	address := a.clientOf(r)
	token, p := a.checkToken(address, body.Token)
	if p != nil {
		if p.Status == http.StatusUnauthorized {
			p.with("WWW-Authenticate", challenge)
		}
		return p
	}
	knownAs(w, caller{token, address})
	if p := a.signIns.take(token.Name); p != nil {
		return p
	}
	a.log.Info("signed in", "token", token.Name, "remote", address)
	a.setSession(w, r, newSession(token, time.Now().Add(sessionFor)), int(sessionFor/time.Second))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// signOut ends the session on all instances, and has the browser forget the cookie.
func (a *API) signOut(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	s, p := a.sessionOf(r)
	if p != nil && p.Status == http.StatusUnauthorized {
		a.setSession(w, r, "", -1)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	knownAs(w, caller{s.token, a.clientOf(r)})
	if p := a.signOuts.take(s.token.Name); p != nil {
		return p
	}
	a.setSession(w, r, "", -1)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), signOutTimeout) // a browser may leave with its page
	defer cancel()
	err := a.signedOut.add(ctx, s)
	a.log.Info("signed out", "token", s.token.Name, "remote", a.clientOf(r), "everywhere", err == nil)
	if err != nil {
		p := databaseUnavailable.because("the browser forgets the session and this instance takes it no more; " +
			"other instances do until the database can be asked again, when they are told")
		p.retryAfter, p.cause = retryLater, err
		return p
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) setSession(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: a.cookieName(r), Value: value, Path: a.cfg.BasePath + "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: isSecure(r),
	})
}

// readSmall reads a small JSON body into v. There may be no parameters beside it.
func (a *API) readSmall(w http.ResponseWriter, r *http.Request, v any) *problem {
	if _, p := params(r); p != nil {
		return p
	}
	gzipped, _ := isGzipped(r.Header)
	if form, p := formatOf(r.Header); p != nil || form != formatJSON || gzipped {
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

// plainJSONError says where a body is wrong. The library's error may quote what it is about, which
// may be a token.
func plainJSONError(err error) string {
	if wrong, ok := errors.AsType[*json.SemanticError](err); ok && wrong.JSONPointer != "" {
		return "at " + string(wrong.JSONPointer) + " is something else than is allowed there"
	}
	return "it is not a JSON object, or has members that are unknown or given twice"
}
