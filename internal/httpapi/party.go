package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spendflush/spendflush/internal/gate"
)

// party is who shares the places of an instance with others: a token if there are several, else an
// address.
type party struct {
	token   int // its place in the settings, from 1; 0 where tokens don't tell callers apart
	address netip.Addr
}

// partyOf returns who sent the request. Where it matters the request was let in already, so that a
// token is good.
func (a *API) partyOf(r *http.Request) party {
	if len(a.tokens) > 1 {
		if token := a.tokenOf(r); token > 0 {
			return party{token: token}
		}
	}
	return party{address: gate.NetworkOf(a.clientOf(r))}
}

// callerOf names the party for the pipeline. Without tokens all callers are of one owner, who is not to be kept from the
// places that nobody else takes.
func (a *API) callerOf(r *http.Request) string {
	if len(a.tokens) == 0 {
		return ""
	}
	p := a.partyOf(r)
	if p.token > 0 {
		return "token " + strconv.Itoa(p.token)
	}
	return p.address.String()
}

// tokenOf returns the place of the token that opened the API to the request, or of that which its
// session was made with; 0 if there is none.
func (a *API) tokenOf(r *http.Request) int {
	if given := r.Header["Authorization"]; len(given) > 0 {
		_, text, _ := strings.Cut(given[0], " ")
		return a.tokens.find(strings.TrimSpace(text))
	}
	s, _ := a.sessionOf(r)
	return s.token
}

// clientOf returns the address that the request comes from: behind trusted proxies the one that
// they tell.
func (a *API) clientOf(r *http.Request) netip.Addr {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	address, _ := netip.ParseAddr(host)
	address = address.Unmap().WithZone("")
	if !a.gate.Trusts(address) {
		return address
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0; i-- { // what stands before the last of the others anybody could have written
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		address = hop.Unmap().WithZone("")
		if !a.gate.Trusts(address) {
			break
		}
	}
	return address
}
