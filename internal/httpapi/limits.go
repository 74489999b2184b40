package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// extend gives the answer d to begin, and the server's WriteTimeout after that. (Reading needs no
// such thing: once a request is read, net/http lifts the deadline, and only watches whether the
// client leaves.)
func (a *API) extend(w http.ResponseWriter, d time.Duration) {
	// An error means that there is no connection, as in a test: then there is no deadline either.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d + a.cfg.WriteTimeout))
}

// params reads the query. Names that aren't allowed, and names given twice, are refused: a mistyped
// name must not turn into a default.
func params(r *http.Request, allowed ...string) (url.Values, *problem) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalidRequest.because("the query can't be read: %v", err)
	}
	for name, given := range values {
		switch {
		case !slices.Contains(allowed, name):
			return nil, invalidRequest.because("unknown parameter %.64q; allowed are %s", name, strings.Join(allowed, ", "))
		case len(given) > 1:
			return nil, invalidRequest.because("parameter %s is given %d times", name, len(given))
		}
	}
	return values, nil
}

// panicError makes an error of what recover returned, with the stack.
func panicError(reason any) error {
	return fmt.Errorf("panic: %v\n%s", reason, debug.Stack())
}
