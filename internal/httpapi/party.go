package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/spendflush/spendflush/internal/gate"
)

// party is who shares the places of an instance with others: the name of a token if there are
// several, else an address.
type party struct {
	name    string // "" where tokens don't tell callers apart
	address netip.Addr
}

// partyOf returns who sent the request that is answered.
func (a *API) partyOf(w http.ResponseWriter, r *http.Request) party {
	if a.cfg.Keys.Now().Names() > 1 {
		if name := callerOf(w).name(); name != "" {
			return party{name: name}
		}
	}
	return party{address: gate.NetworkOf(a.clientOf(r))}
}

// shareOf names the party for the pipeline. Without tokens all callers are of one owner, who is not
// to be kept from the places that nobody else takes.
func (a *API) shareOf(w http.ResponseWriter, r *http.Request) string {
	if !a.cfg.Keys.Any() {
		return ""
	}
	p := a.partyOf(w, r)
	if p.name != "" {
		return "token " + p.name
	}
	return p.address.String()
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
