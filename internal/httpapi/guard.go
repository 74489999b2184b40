package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// guard refuses what a page of another site may have made a browser send, and what came in a way
// that isn't meant. found is what is asked for, nil if there is no such thing. nil: the request may
// go on.
func (a *API) guard(found *route, r *http.Request) *problem {
	if !a.serves(r.Host) {
		if !a.cfg.Keys.Any() {
			return unknownHost.because("Host is %.100q; without tokens only localhost, loopback addresses and the hosts of SPENDFLUSH_HOSTS are served", r.Host)
		}
		return unknownHost.because("Host is %.100q; only localhost, loopback addresses and the hosts of SPENDFLUSH_HOSTS are served", r.Host)
	}
	if !a.cfg.Keys.Any() {
		if name := proxyHeader(r.Header); name != "" {
			return proxied.because("the request has the header %.40s; without tokens only what comes directly from this machine is served", name)
		}
	}
	if (found == nil || !found.page) && isOfAnotherSite(r) {
		return crossOrigin.because("a page of another origin may not send %.20s requests here", r.Method)
	}
	return nil
}

// serves says whether requests for this host are answered.
//
// Without tokens nothing but being on this machine opens this instance. A site whose name is made
// to stand for 127.0.0.1 would be there too, and the browser would take it for the same origin; but
// the name is in the request.
func (a *API) serves(host string) bool {
	return a.cfg.Keys.Any() && len(a.cfg.Hosts) == 0 || a.isOwnHost(host)
}

// isOwnHost says whether the host is this machine's loopback, or one of Config.Hosts.
func (a *API) isOwnHost(host string) bool {
	if host == "" || isLoopback(host) { // every browser says which host it means
		return true
	}
	return slices.ContainsFunc(a.cfg.Hosts, func(known string) bool { return strings.EqualFold(known, hostName(host)) })
}

// hostName is the host of a request without the port, brackets and the dot at the end.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(host, ".")
}

// isLoopback says whether the host of a request names this machine: it is localhost, a name below
// it, or a loopback address.
func isLoopback(host string) bool {
	host = hostName(host)
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// proxyHeader returns the name of a header that only proxies send; "" if there is none. A proxy on
// this machine makes a request from anywhere look as if it came from here.
func proxyHeader(h http.Header) string {
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "Via" || name == "X-Real-Ip" {
			return name
		}
	}
	return ""
}

// isOfAnotherSite says whether a page of another origin made a browser send the request, whatever
// its method: a GET makes the instance work, too. Browsers say so to whoever they trust not to be
// listened to; others at least give the origin of what changes something.
func isOfAnotherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none": // none: the reader typed the address
		return false
	case "":
		origin := r.Header.Get("Origin")
		if origin == "" {
			return false
		}
		u, err := url.Parse(origin)
		return err != nil || u.Host != r.Host
	}
	return true
}
