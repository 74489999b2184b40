package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spendflush/spendflush/internal/access"
)

const challenge = `Bearer realm="spendflush"`

// caller is who sent a request, as far as is known.
type caller struct {
	token   *access.Token // nil where none is needed, or none came that counts
	address netip.Addr
}

// name is the stable name of the caller, "" without a token.
func (c caller) name() string {
	if c.token == nil {
		return ""
	}
	return c.token.Name
}

// String is what the log and the books have of it.
func (c caller) String() string {
	if c.token == nil {
		return "no token, " + c.address.String()
	}
	return fmt.Sprintf("token %s, %s", c.token.Name, c.address)
}

// callerOf returns who sent the request that is answered. On routes that need no token it may be
// the zero caller.
func callerOf(w http.ResponseWriter) caller {
	if answer, ok := w.(*answer); ok {
		return answer.from
	}
	return caller{}
}

// knownAs notes who sent a request on a route that needs no token.
func knownAs(w http.ResponseWriter, from caller) {
	if answer, ok := w.(*answer); ok {
		answer.from = from
	}
}

// authenticate returns who sent the request, if it has one of the tokens or, without any, the
// cookie of a session; or if none is needed.
func (a *API) authenticate(r *http.Request) (caller, *problem) {
	from := caller{address: a.clientOf(r)}
	keys := a.cfg.Keys.Now()
	if keys.Len() == 0 {
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

// authorize says why the caller may not do what the route does, nil if it may. A route that names
// no role is nobody's.
func (a *API) authorize(found *route, from caller) *problem {
	if !a.cfg.Keys.Any() {
		return nil
	}
	has := from.token.Roles
	if has&found.role != 0 {
		return nil
	}
	p := missingRole.because("this needs the role %s; the token %s has: %s", found.role, from.token.Name, strings.Join(has.Names(), ", "))
	p.Role, p.Roles = found.role.String(), has.Names()
	return p
}

// checkToken returns the token with the text.
func (a *API) checkToken(address netip.Addr, text string) (*access.Token, *problem) {
	token := a.cfg.Keys.Now().Find(text)
	if p := a.guesses.check(caller{token, address}); p != nil {
		return nil, p
	}
	return token, nil
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

// sessionOf returns the session that a cookie of the request has, if it has one that is good, or
// the one of which that isn't known yet, with the problem notReady.
func (a *API) sessionOf(r *http.Request) (found session, p *problem) {
	for _, cookie := range r.CookiesNamed(a.cookieName(r)) {
		s, ok := opens(a.cfg.Keys.Now(), cookie.Value, time.Now())
		if !ok {
			continue
		}
		ended, unknown := a.signedOut.has(r.Context(), s)
		if unknown {
			found, p = s, notReady.because("it is not known yet whether the session was ended")
			p.retryAfter = retrySoon
		} else if !ended {
			return s, nil
		}
	}
	if p == nil {
		p = unauthorized.because("send one as \"Authorization: Bearer …\", or sign in").with("WWW-Authenticate", challenge)
	}
	return found, p
}
