package httpapi

import (
	"net/http"
	"strings"

	"github.com/spendflush/spendflush/internal/access"
)

// endpoint answers a request of one method.
type endpoint func(w http.ResponseWriter, r *http.Request) *problem

// route is what is served at one path.
type route struct {
	// path may have {name} for one segment, whatever it is, and {name...} at its end for one or
	// more. What they stand for is the request's PathValue of that name, escaped as it came. It is
	// below the base path.
	path string

	open      bool         // needs no token
	role      access.Roles // one of which the token must have; without one, and unless it is open, it is nobody's
	page      bool         // a link on a page of another site may lead here: it costs nothing and shows nothing
	unguarded bool         // may be asked for under any host: it has nothing to guard, and whoever asks may know no name
	probe     bool         // is asked for by programs again and again: it would drown the rest of the access log, and is served without the base path, too
	stream    bool         // is answered for as long as the client stays
	get       endpoint     // stands for HEAD too
	post      endpoint
	delete    endpoint
}

// routes finds routes by path. A path is taken as it was sent: an escaped slash is part of a name,
// and nothing is cleaned away. docs/adr/0022-routes-of-the-api.md says why http.ServeMux doesn't do
// it.
type routes struct {
	base     string // stands before all paths; "": nothing does
	exact    map[string]*route
	patterns []*route
}

func newRoutes(base string, list []*route) *routes {
	rs := &routes{base: base, exact: map[string]*route{}}
	for _, found := range list {
		if strings.Contains(found.path, "{") {
			rs.patterns = append(rs.patterns, found)
		} else {
			rs.exact[found.path] = found
		}
	}
	return rs
}

// find returns the route of the request, nil if there is none, and sets the request's path values.
// What programs ask for again and again is also found without the base path: a probe or a scrape
// needn't know it.
func (rs *routes) find(r *http.Request) *route {
	path, isBelow := rs.below(r)
	found := rs.at(path, r)
	if found != nil && !isBelow && !found.probe {
		return nil
	}
	return found
}

// at returns the route of a path, nil if there is none.
func (rs *routes) at(path string, r *http.Request) *route {
	if found := rs.exact[path]; found != nil {
		return found
	}
	for _, found := range rs.patterns {
		if matches(found.path, path, r) {
			return found
		}
	}
	return nil
}

// matches compares path with pattern, segment by segment.
func matches(pattern, path string, r *http.Request) bool {
	for {
		want, restWant, moreWant := strings.Cut(pattern, "/")
		got, rest, more := strings.Cut(path, "/")
		name, isName := strings.CutPrefix(strings.TrimSuffix(want, "}"), "{")
		switch {
		case strings.HasSuffix(name, "..."):
			r.SetPathValue(strings.TrimSuffix(name, "..."), path)
			return true
		case isName:
			r.SetPathValue(name, got)
		case want != got:
			return false
		}
		if !moreWant || !more {
			return moreWant == more
		}
		pattern, path = restWant, rest
	}
}

// of returns what answers the method, and otherwise the value of Allow.
func (rt *route) of(method string) (do endpoint, allow string) {
	var allowed []string
	for _, one := range []struct {
		methods []string
		do      endpoint
	}{
		{[]string{http.MethodGet, http.MethodHead}, rt.get}, {[]string{http.MethodPost}, rt.post}, {[]string{http.MethodDelete}, rt.delete},
	} {
		if one.do == nil {
			continue
		}
		for _, name := range one.methods {
			if name == method {
				return one.do, ""
			}
			allowed = append(allowed, name)
		}
	}
	return nil, strings.Join(append(allowed, http.MethodOptions), ", ")
}
