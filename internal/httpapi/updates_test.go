package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

// plain is an update that is taken.
const plain = `{"spend":1,"api_key":"k"}`

func TestOneUpdateAnArrayAndLinesAreAccepted(t *testing.T) {
	for _, c := range []struct {
		body, contentType string
		n                 int
	}{
		{plain, "application/json", 1},
		{"  " + plain + "\n", "application/json; charset=utf-8", 1},
		{"[" + plain + "]", `Application/JSON;charset="UTF-8"`, 1},
		{"[" + plain + "," + plain + "]", "application/json", 2},
		{plain + "\n" + plain + "\n", "application/x-ndjson", 2},
		{plain, "application/x-ndjson; charset=utf-8", 1},
	} {
		a, recorder := newAPI(t, nil)
		w := do(a, "POST", "/v1/updates", c.body, "Content-Type: "+c.contentType)
		if want := fmt.Sprintf("{\"updates\":%d,\"reached\":\"accepted\"}\n", c.n); w.Code != http.StatusAccepted || w.Body.String() != want {
			t.Errorf("%s %q: %d %s", c.contentType, c.body, w.Code, w.Body)
		}
		if recorder.recorded() != c.n {
			t.Errorf("%s %q: %d were recorded", c.contentType, c.body, recorder.recorded())
		}
	}
}

func TestABodyThatMayBeAnythingElseIsNotGuessedAt(t *testing.T) {
	a, recorder := newAPI(t, nil)
	for _, headers := range [][]string{
		nil,
		{"Content-Type: text/plain"},
		{"Content-Type: application/x-www-form-urlencoded"},
		{"Content-Type: application/jsonx"},
		{"Content-Type: application/json; charset=latin1"},
		{"Content-Type: application/json; version=2"},
		{asJSON, "Content-Encoding: br"},
		{asJSON, "Content-Encoding: gzip, gzip"},
		{asJSON, "Content-Encoding: gzip", "Content-Encoding: gzip"},
	} {
		wantProblem(t, do(a, "POST", "/v1/updates", plain, headers...), unsupportedMediaType)
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
}

func TestNoUpdatesAreAMistakeAndNotASuccess(t *testing.T) {
	a, _ := newAPI(t, nil)
	wantProblem(t, do(a, "POST", "/v1/updates", "[]", asJSON), noUpdates)
	wantProblem(t, do(a, "POST", "/v1/updates", "", asJSON), noUpdates)
	wantProblem(t, do(a, "POST", "/v1/updates", " \n ", asJSON), noUpdates)
	wantProblem(t, do(a, "POST", "/v1/updates", "", asNDJSON), noUpdates)
	wantProblem(t, do(a, "POST", "/v1/updates", "\n\r\n", asNDJSON), noUpdates)
}

func TestFaultsOfTheDecoderAndOfTheRootAreListedTogetherInOrder(t *testing.T) {
	a, recorder := newAPI(t, nil)
	body := `[` + plain + `,{"spend":1,"model":"m"},{"spend":"x","api_key":"k"},` +
		`{"spend":1,"api_key":"` + strings.Repeat("a", 300) + `"},{"spend":1,"user_id":"a\u0000b"}]`
	p := wantProblem(t, do(a, "POST", "/v1/updates", body, asJSON), invalidUpdate)
	var got []string
	for _, f := range p.Errors {
		got = append(got, fmt.Sprintf("%d %s: %s", f.Index, f.Field, f.Detail))
	}
	for i, want := range []string{"1 : no id", "2 spend: ", "3 api_key: 300 bytes; allowed are 256", "4 user_id: holds a NUL character"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Fatalf("faults are %q", got)
		}
	}
	if !strings.Contains(p.Detail, "nothing was recorded; update 1: no id") {
		t.Errorf("detail is %q", p.Detail)
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
}

func TestUpdatesOutOfTheRootsBoundsAreRefusedByField(t *testing.T) {
	a, _ := newAPI(t, nil)
	long := strings.Repeat("é", 150)
	for name, c := range map[string]struct{ body, field string }{
		"too old":              {update(`"time":"` + time.Now().Add(-36*24*time.Hour).Format(time.RFC3339) + `"`), "time"},
		"in the future":        {update(`"time":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"`), "time"},
		"the end of time":      {update(`"time":"9999-12-31T23:59:59Z"`), "time"},
		"too many tokens":      {update(`"prompt_tokens":1000000001`), "prompt_tokens"},
		"too many dollars":     {`{"spend":1000000001,"api_key":"k"}`, "spend"},
		"an id of 300 bytes":   {update(`"user_id":"` + long + `"`), "user_id"},
		"NUL in a dimension":   {update(`"model":"a\u0000"`), "model"},
		"an empty tag":         {update(`"tags":[""]`), "tags"},
		"a tag of 300 bytes":   {update(`"tags":["` + long + `"]`), "tags"},
		"sixty-five tags":      {update(`"tags":[` + strings.Repeat(`"a",`, 64) + `"b"]`), "tags"},
		"no id but dimensions": {`{"spend":1,"model":"m"}`, ""},
		"an id that is empty":  {`{"spend":1,"api_key":""}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := wantProblem(t, do(a, "POST", "/v1/updates", c.body, asJSON), invalidUpdate)
			if len(p.Errors) != 1 || p.Errors[0].Field != c.field || p.Errors[0].Detail == "" {
				t.Errorf("errors are %+v", p.Errors)
			}
		})
	}
}

func TestTwentyFaultsAreListedAndNoMore(t *testing.T) {
	a, _ := newAPI(t, nil)
	// The root finds these, all of them; and the decoder stops by itself.
	for _, one := range []string{`{"spend":1}`, `{}`} {
		p := wantProblem(t, do(a, "POST", "/v1/updates", `[`+strings.Repeat(one+",", 500)+one+`]`, asJSON), invalidUpdate)
		if len(p.Errors) != maxFaults || p.Errors[19].Index != 19 || !strings.Contains(p.Detail, "the first 20 faults are listed") {
			t.Errorf("%d faults, detail %q", len(p.Errors), p.Detail)
		}
	}
}

func TestWhatIsNotJSONHasAProblemOfItsOwn(t *testing.T) {
	a, _ := newAPI(t, nil)
	p := wantProblem(t, do(a, "POST", "/v1/updates", `[`+plain+`,{"spend":NaN}]`, asJSON), invalidJSON)
	if len(p.Errors) != 1 || p.Errors[0].Index != 1 || !strings.Contains(p.Errors[0].Detail, "byte 36") {
		t.Errorf("errors are %+v", p.Errors)
	}
	p = wantProblem(t, do(a, "POST", "/v1/updates", plain+"\n"+`{"spend":`+"\n"+plain+"\n", asNDJSON), invalidJSON)
	if len(p.Errors) != 1 || p.Errors[0].Index != 1 || !strings.Contains(p.Errors[0].Detail, "line 2") {
		t.Errorf("errors are %+v", p.Errors)
	}
}

func TestABodyAboveTheBoundIsRefusedWhetherItSaysItsSizeOrNot(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.MaxBodyBytes = 100_000 })
	pad := func(n int) string { return plain + strings.Repeat(" ", n-len(plain)) }
	server := serve(t, a)
	post := func(body string, chunked bool) *http.Response {
		r, err := http.NewRequest("POST", server+"/v1/updates", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if chunked {
			r.ContentLength = -1
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	for _, chunked := range []bool{false, true} {
		checkProblem(t, post(pad(100_001), chunked), contentTooLarge)
		if resp := post(pad(100_000), chunked); resp.StatusCode != http.StatusAccepted {
			t.Errorf("chunked %t: a body at the bound gets %d", chunked, resp.StatusCode)
		}
	}
	if recorder.recorded() != 2 {
		t.Errorf("%d updates were recorded", recorder.recorded())
	}
}

func TestABodyThatIsTooLargeByItsOwnWordIsNotReadBeforeItIsRefused(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.MaxBodyBytes = 100 })
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/v1/updates", unwanted{t, w})
	r.Host = "127.0.0.1"
	r.ContentLength = 101
	r.Header.Set("Content-Type", "application/json")
	a.ServeHTTP(w, r)
	wantProblem(t, w, contentTooLarge)
}

// unwanted is a body that may be read only after the answer was sent.
type unwanted struct {
	t *testing.T
	w *httptest.ResponseRecorder
}

func (u unwanted) Read([]byte) (int, error) {
	if !u.w.Flushed {
		u.t.Error("the body is read before the answer is sent")
	}
	return 0, io.EOF
}

func TestMoreUpdatesThanAllowedAreTooLarge(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.MaxUpdates = 2 })
	wantProblem(t, do(a, "POST", "/v1/updates", "["+plain+","+plain+","+plain+"]", asJSON), contentTooLarge)
	wantProblem(t, do(a, "POST", "/v1/updates", plain+"\n"+plain+"\n"+plain, asNDJSON), contentTooLarge)
	if recorder.recorded() != 0 {
		t.Error("updates were recorded")
	}
}

func TestAllBodiesTogetherAreBoundedAndTheirMemoryIsGivenBack(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.MaxBodiesBytes = 600_000 }) // half of it for one caller
	body := plain + strings.Repeat(" ", 200_000)
	for range 5 {
		if w := do(a, "POST", "/v1/updates", body, asJSON); w.Code != http.StatusAccepted {
			t.Fatalf("one body alone gets %d %s", w.Code, w.Body)
		}
	}
	wantProblem(t, do(a, "POST", "/v1/updates", body+strings.Repeat(" ", 1<<20), asJSON), busy)
	if n := a.bodies.inUse(); n != 0 {
		t.Fatalf("%d bytes stay taken", n)
	}

	// A small one needs none of the memory.
	other := &holder{who: party{name: "one"}}
	if !a.bodies.take(t.Context(), other, 300_000) {
		t.Fatal("half of the memory can't be had")
	}
	a.bodies.held = a.bodies.limit
	w := do(a, "POST", "/v1/updates", plain, asJSON)
	if w.Code != http.StatusAccepted || recorder.recorded() != 6 {
		t.Errorf("a small body gets %d; %d recorded", w.Code, recorder.recorded())
	}
}

func TestParametersOfUpdatesAreChecked(t *testing.T) {
	a, recorder := newAPI(t, nil)
	for _, query := range []string{
		"ack=done", "ack=", "ack=queued&ack=queued", "Ack=queued", "wait=1", "timeout=1s", "ack=accepted&timeout=1s",
		"ack=queued&timeout=", "ack=queued&timeout=5", "ack=queued&timeout=61s", "ack=queued&timeout=-1s", "ack=queued&timeout=0s",
		"ack=%zz", "ack=queued;timeout=1s",
	} {
		wantProblem(t, do(a, "POST", "/v1/updates?"+query, plain, asJSON), invalidRequest)
	}
	if recorder.recorded() != 0 {
		t.Error("an update was recorded")
	}
}

func TestAFullOrClosedPipelineIsUnavailableAndSaysWhenToComeAgain(t *testing.T) {
	for _, c := range []struct {
		err  error
		kind problemType
	}{
		{fmt.Errorf("wrapped: %w", spendflush.ErrBufferFull), bufferFull},
		{fmt.Errorf("%w: %w", spendflush.ErrBufferFull, spendflush.ErrShareFull), tooManyNewKeys},
		{fmt.Errorf("%w: %w: %w", spendflush.ErrBufferFull, spendflush.ErrShareFull, spendflush.ErrDayFull), tooManyNewKeys},
		{spendflush.ErrClosed, shuttingDown},
	} {
		a, recorder := newAPI(t, nil)
		recorder.err = c.err
		w := do(a, "POST", "/v1/updates?ack=committed", plain, asJSON)
		if p := wantProblem(t, w, c.kind); !strings.Contains(p.Detail, "nothing was recorded") || w.Header().Get("Retry-After") == "" {
			t.Errorf("problem %+v, header %v", p, w.Header())
		}
	}
}

func TestAWaitThatEndsSaysWhatWasReachedAndNotToSendAgain(t *testing.T) {
	for name, c := range map[string]struct {
		wait func(ctx context.Context, want spendflush.Stage) (spendflush.Stage, error)
		says string
	}{
		"by its timeout": {func(ctx context.Context, _ spendflush.Stage) (spendflush.Stage, error) {
			<-ctx.Done()
			return spendflush.Queued, ctx.Err()
		}, "within 10ms"},
		"by the end of the instance": {func(context.Context, spendflush.Stage) (spendflush.Stage, error) {
			return spendflush.Queued, spendflush.ErrClosed
		}, "before this instance stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			a, recorder := newAPI(t, nil)
			recorder.wait = c.wait
			w := do(a, "POST", "/v1/updates?ack=committed&timeout=10ms", "["+plain+","+plain+"]", asJSON)
			p := wantProblem(t, w, waitEnded)
			if p.Reached != "queued" || p.Updates != 2 || !strings.Contains(p.Detail, c.says) || !strings.Contains(p.Detail, "do not send them again") {
				t.Errorf("problem %+v", p)
			}
			if w.Header().Get("Retry-After") != "" {
				t.Error("the client is told to come again")
			}
			if recorder.recorded() != 2 {
				t.Errorf("%d are recorded", recorder.recorded())
			}
		})
	}
}

func TestFaultsThatAreNotToldTakeNoMemory(t *testing.T) {
	d := &decoder{maxUpdates: 10_000}
	if err := d.decode([]byte("["+strings.Repeat(`{"spend":1},`, 9_999)+`{"spend":1}]`), formatJSON); err != nil {
		t.Fatal(err)
	}
	if p := d.problem(nil); len(p.Errors) != maxFaults || len(d.faults) != maxFaults {
		t.Errorf("%d faults are told, %d are kept", len(p.Errors), len(d.faults))
	}
}

// busyRecorder takes an update once it may.
type busyRecorder struct {
	Recorder
	begun, may chan struct{}
}

func (r *busyRecorder) RecordAllFor(caller string, updates []spend.Update) (spendflush.Receipt, error) {
	r.begun <- struct{}{}
	<-r.may
	return r.Recorder.RecordAllFor(caller, updates)
}

func TestFewBodiesAreDecodedAtOnceAndHalfOfThemOfOneCaller(t *testing.T) {
	slow := &busyRecorder{begun: make(chan struct{}, 100), may: make(chan struct{})}
	a, _ := newAPI(t, func(c *Config) {
		slow.Recorder = c.Recorder
		c.Recorder, c.Keys = slow, keysOf("secret-1", "secret-2")
	})
	large := plain + strings.Repeat(" ", freeDecodeBytes)
	answers := make(chan int, 100)
	post := func(token, body string) {
		answers <- do(a, "POST", "/v1/updates", body, asJSON, "Authorization: Bearer "+token).Code
	}
	for range a.decodes.each {
		go post("secret-1", large)
		<-slow.begun
	}
	post("secret-1", large) // waits for its turn, which doesn't come
	if status := <-answers; status != http.StatusServiceUnavailable {
		t.Errorf("%d: one caller has more than half of the places", status)
	}
	go post("secret-2", large)
	go post("secret-1", plain) // a small one needs no place
	<-slow.begun
	<-slow.begun
	close(slow.may)
	for range a.decodes.each + 2 {
		if status := <-answers; status != http.StatusAccepted {
			t.Error(status)
		}
	}
	if n := a.decodes.held(); n != 0 {
		t.Errorf("%d places are never given back", n)
	}
}

func TestAWaitHoldsNoBuffers(t *testing.T) {
	a, recorder := newAPI(t, nil)
	recorder.wait = func(_ context.Context, want spendflush.Stage) (spendflush.Stage, error) {
		if held := a.bodies.inUse(); held != 0 {
			t.Errorf("%d bytes are held", held)
		}
		return want, nil
	}
	w := do(a, "POST", "/v1/updates?ack=queued", plain+strings.Repeat(" ", 100_000), asJSON)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"reached":"queued"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAnErrorThatNobodyExpectsIsNotShown(t *testing.T) {
	a, recorder := newAPI(t, nil)
	recorder.err = errors.New("password=hunter2")
	if p := wantProblem(t, do(a, "POST", "/v1/updates", plain, asJSON), internalError); strings.Contains(p.Detail, "hunter2") {
		t.Errorf("detail is %q", p.Detail)
	}
}

func TestAFullBufferDoesNotFillTheLogAndADatabaseAwayIsInIt(t *testing.T) {
	var log bytes.Buffer
	a, recorder := newAPI(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Reader = &failingReader{err: errors.New("no route to host")}
	})
	recorder.err = spendflush.ErrBufferFull
	wantProblem(t, do(a, "POST", "/v1/updates", plain, asJSON), bufferFull)
	if log.Len() > 0 {
		t.Errorf("the log is %s", &log)
	}
	p := wantProblem(t, do(a, "GET", "/v1/audit", ""), databaseUnavailable)
	if !strings.Contains(log.String(), "no route to host") || !strings.Contains(log.String(), p.Instance) {
		t.Errorf("the log is %s", &log)
	}
}
