package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard refuses what a page of another site may have made a browser send. nil: the request may go on.
func (a *API) guard(r *http.Request) *problem {
	if len(a.tokens) == 0 && r.Host != "" && !isLoopback(r.Host) { // every browser says which host it means
		// Nothing but being on this machine opens this instance. A site whose name is made to stand for 127.0.0.1 would
		// be there too, and the browser would take it for the same origin.
		return unknownHost.because("Host is %.100q; without tokens only localhost and loopback addresses are served", r.Host)
	}
	if err := a.origins.Check(r); err != nil {
		return crossOrigin.because("a page of another origin may not send %.20s requests here", r.Method)
	}
	return nil
}

// isLoopback says whether the host of a request names this machine: it is localhost, a name below it, or a loopback
// address.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
