package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// script is an instance that answers as it is told, request by request, and then takes everything.
type script struct {
	mu      sync.Mutex
	answers []func(w http.ResponseWriter, updates []spend.Update)
	taken   []string   // ids, in order
	asked   [][]string // ids of each request
}

// RoundTrip is the whole network, so that a test can run in a bubble.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var updates []spend.Update
	if err := json.Unmarshal(body, &updates); err != nil {
		return nil, err
	}
	var ids []string
	for _, u := range updates {
		ids = append(ids, u.ID)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, ids)
	w := httptest.NewRecorder()
	if len(s.answers) > 0 {
		answer := s.answers[0]
		s.answers = s.answers[1:]
		if answer == nil {
			return nil, errors.New("connection reset by peer")
		}
		answer(w, updates)
	} else {
		w.WriteHeader(http.StatusOK)
	}
	if w.Code == http.StatusOK {
		s.taken = append(s.taken, ids...)
	}
	return w.Result(), nil
}

func fails(status int, body string, headers ...string) func(http.ResponseWriter, []spend.Update) {
	return func(w http.ResponseWriter, _ []spend.Update) {
		for _, header := range headers {
			name, value, _ := strings.Cut(header, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// refusals gathers what a client says will never be taken.
type refusals struct {
	mu   sync.Mutex
	list []string
}

func (r *refusals) add(u spend.Update, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, u.ID+": "+reason.Error())
}

// scripted runs do with a client of one request at a time whose instance gives these answers.
func scripted(t *testing.T, answers []func(http.ResponseWriter, []spend.Update), do func(t *testing.T, c *Client, s *script, r *refusals)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, r := &script{answers: answers}, &refusals{}
		c, err := New(Options{
			URLs: []string{"http://one.example", "http://two.example/base/"}, Token: "secret", Requests: 1, Refused: r.add,
			HTTP: &http.Client{Transport: s}, MaxPending: 10,
		})
		if err != nil {
			t.Fatal(err)
		}
		do(t, c, s, r)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func update(id string) *spend.Update {
	return &spend.Update{ID: id, Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{APIKey: "k"}}
}

func record(t *testing.T, c *Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := c.Record(update(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatFailsForAReasonThatIsNotTheUpdatesIsSentAgain(t *testing.T) {
	again := []func(http.ResponseWriter, []spend.Update){
		nil, fails(503, ""), fails(500, ""), fails(504, `{"type":"x#wait-ended"}`), fails(408, ""), fails(429, "", "Retry-After: 30"), fails(401, "{}"), fails(403, "{}"), fails(404, "not ours"),
	}
	scripted(t, again, func(t *testing.T, c *Client, s *script, r *refusals) {
		begun := time.Now()
		record(t, c, "1", "2")
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if !slices.Equal(s.taken, []string{"1", "2"}) || len(s.asked) != len(again)+1 || len(r.list) != 0 {
			t.Errorf("taken %v in %d requests, refused %v", s.taken, len(s.asked), r.list)
		}
		if time.Since(begun) < 30*time.Second {
			t.Error("it did not wait for as long as it was told to")
		}
	})
}

func TestWhatIsRefusedIsToldAndHoldsUpNothingElse(t *testing.T) {
	named := fails(400, `{"title":"An update is not valid","errors":[{"index":1,"field":"time","detail":"is too old"},{"index":1,"field":"x","detail":"y"}]}`)
	reused := fails(422, `{"title":"The id was given to another content","errors":[{"index":0,"field":"id","detail":"was given"}]}`)
	scripted(t, []func(http.ResponseWriter, []spend.Update){named, reused}, func(t *testing.T, c *Client, s *script, r *refusals) {
		record(t, c, "1", "2", "3")
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if !slices.Equal(s.taken, []string{"3"}) || len(r.list) != 2 || !strings.HasPrefix(r.list[0], "2: An update is not valid time is too old") || !strings.HasPrefix(r.list[1], "1: The id") {
			t.Errorf("taken %v, refused %q", s.taken, r.list)
		}
	})
}

func TestWhatIsRefusedWithoutANameIsFoundByHalves(t *testing.T) {
	tooLarge := func(w http.ResponseWriter, updates []spend.Update) {
		if slices.ContainsFunc(updates, func(u spend.Update) bool { return u.ID == "3" }) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	}
	answers := slices.Repeat([]func(http.ResponseWriter, []spend.Update){tooLarge}, 20)
	scripted(t, answers, func(t *testing.T, c *Client, s *script, r *refusals) {
		record(t, c, "1", "2", "3", "4", "5")
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		slices.Sort(s.taken)
		if !slices.Equal(s.taken, []string{"1", "2", "4", "5"}) || len(r.list) != 1 || !strings.HasPrefix(r.list[0], "3: ") {
			t.Errorf("taken %v, refused %q", s.taken, r.list)
		}
	})
}

func TestAFullClientAndAClosedOneSaySo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := slices.Repeat([]func(http.ResponseWriter, []spend.Update){nil}, 1000)
		s := &script{answers: away}
		c, err := New(Options{URLs: []string{"http://one.example"}, HTTP: &http.Client{Transport: s}, MaxPending: 3, MaxBatch: 2})
		if err != nil {
			t.Fatal(err)
		}
		record(t, c, "1", "2", "3")
		if err := c.Record(update("4")); !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var unsent *UnsentError
		if err := c.Close(ctx); !errors.As(err, &unsent) || len(unsent.Updates) != 3 {
			t.Errorf("%v", err)
		}
		if err := c.Record(update("5")); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestAnUpdateIsNamedAndDatedOnceAndCopied(t *testing.T) {
	scripted(t, []func(http.ResponseWriter, []spend.Update){nil, nil}, func(t *testing.T, c *Client, s *script, _ *refusals) {
		u := update("")
		u.Tags = []string{"a"}
		if err := c.Record(u); err != nil {
			t.Fatal(err)
		}
		u.Tags[0] = "changed"
		if u.ID != "" || !u.Time.IsZero() {
			t.Errorf("the caller's update was changed: %+v", u)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		if len(s.asked) != 3 || len(s.asked[0][0]) != 32 || s.asked[0][0] != s.asked[2][0] {
			t.Errorf("%q", s.asked)
		}
	})
}

func TestOptionsThatCannotBeAreRefusedByName(t *testing.T) {
	for want, o := range map[string]Options{
		"URLs is empty": {}, `URLs has "example"`: {URLs: []string{"example"}}, "MaxBatch 10001": {URLs: []string{"http://h"}, MaxBatch: 10_001},
		"Timeout 1s": {URLs: []string{"http://h"}, Timeout: time.Second},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	scripted(t, nil, func(t *testing.T, c *Client, _ *script, _ *refusals) {
		if _, ok := errors.AsType[*spend.UpdateError](c.Record(&spend.Update{})); !ok {
			t.Error("an update that counts on nothing is taken")
		}
	})
}
