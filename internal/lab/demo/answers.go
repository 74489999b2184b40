package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// answers carries the requests of the clients, and counts what becomes of them. It changes nothing.
type answers struct {
	of     http.RoundTripper
	failed func(error) // told of answers that should not come

	updates, repeats    atomic.Int64 // that were answered as committed; those of them that were in the books before
	unanswered, refused atomic.Int64 // requests, each of which is sent again
}

// answer is that of an instance to a request whose updates are committed.
type answer struct {
	Updates    int64  `json:"updates"`
	Duplicates int64  `json:"duplicates"`
	Conflicts  int64  `json:"conflicts"`
	Reached    string `json:"reached"`
}

// RoundTrip implements http.RoundTripper.
func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := a.of.RoundTrip(r)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			a.refused.Add(1)
		} else {
			a.unanswered.Add(1)
		}
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		a.unanswered.Add(1)
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	a.note(response.StatusCode, body)
	return response, nil
}

func (a *answers) note(status int, body []byte) {
	switch status {
	case http.StatusOK:
		var got answer
		if err := json.Unmarshal(body, &got); err != nil || got.Reached != "committed" || got.Conflicts > 0 {
			a.failed(fmt.Errorf("a request that waits for its commit is answered with %.500s", body))
			return
		}
		a.updates.Add(got.Updates)
		a.repeats.Add(got.Duplicates)
	case http.StatusGatewayTimeout: // recorded, and not committed in time
		a.unanswered.Add(1)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusRequestTimeout:
		a.refused.Add(1)
	default:
		a.failed(fmt.Errorf("an instance answers %d: %.500s", status, body))
	}
}
