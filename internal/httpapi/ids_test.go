package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/spendflush/spendflush"
)

// once is post with an Idempotency-Key.
func (in *instance) once(key, query, body string) (int, map[string]any) {
	in.t.Helper()
	r, err := http.NewRequest(http.MethodPost, in.url+"/v1/updates"+query, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(keyHeader, key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		in.t.Fatal(err)
	}
	return in.decode(resp)
}

// wantRecorded checks an answer, written as its members but for updates.
func (in *instance) wantRecorded(status int, answer map[string]any, want string) {
	in.t.Helper()
	var got []string
	for _, name := range []string{"new", "duplicates", "conflicts", "reached"} {
		if value, ok := answer[name]; ok {
			got = append(got, fmt.Sprintf("%s=%v", name, value))
		}
	}
	if text := strings.Join(got, " "); text != want || status/100 != 2 {
		in.t.Errorf("status %d, %v; want %s", status, answer, want)
	}
}

// withID returns an update with an id.
func withID(id, members string) string {
	return fmt.Sprintf(`{"id":%q,"spend":1,"api_key":"k"%s}`, id, members)
}

func TestWhatHasAnIDCountsOnceHoweverItIsWritten(t *testing.T) {
	in := newInstance(t)
	in.run()
	const committed = "?ack=committed"
	status, answer := in.post(committed, "application/json", "["+withID("1", "")+","+withID("2", `,"tags":["a","b"]`)+","+withID("1", "")+"]")
	in.wantRecorded(status, answer, "new=2 duplicates=1 reached=committed")
	for _, again := range []string{
		withID("1", ""), withID("2", `,"tags":["b","a","a"]`), `{"api_key":"k","spend":"1.000","status":"success","id":"1"}`, `{"id":"\u0031","spend":1e0,"api_key":"k","team_id":null}`,
	} {
		status, answer = in.post(committed, "application/json", again)
		in.wantRecorded(status, answer, "new=0 duplicates=1 reached=committed")
	}
	lines := withID("3", "") + "\n" + withID("1", "") + "\n" + plain
	status, answer = in.post(committed, "application/x-ndjson", lines)
	in.wantRecorded(status, answer, "new=2 duplicates=1 reached=committed") // what has no id counts each time
	status, answer = in.post(committed, "application/json", plain)
	in.wantRecorded(status, answer, "reached=committed")
	if status, answer = in.get("/v1/spend/api_key/k"); counter(answer, "committed", "spend") != "5" {
		t.Errorf("%d %v", status, answer)
	}
}

func TestAKeyNamesAllUpdatesOfARequest(t *testing.T) {
	in := newInstance(t)
	in.run()
	a, b := `{"spend":1,"api_key":"a"}`, `{"spend":2,"api_key":"b"}`
	status, answer := in.once("invoice 7", "?ack=committed", "["+a+","+b+"]")
	in.wantRecorded(status, answer, "new=2 duplicates=0 reached=committed")
	for key, body := range map[string]string{"invoice 7": "[" + b + "," + a + "]", `"invoice 7"`: "[" + a + "," + b + "]"} {
		status, answer = in.once(key, "?ack=committed", body)
		in.wantRecorded(status, answer, "new=0 duplicates=2 reached=committed")
	}
	// An id of an update is another thing.
	status, answer = in.post("?ack=committed", "application/json", withID("invoice 7", ""))
	in.wantRecorded(status, answer, "new=1 duplicates=0 reached=committed")
	status, answer = in.once(`"a \"quote\" and a \\"`, "?ack=committed", a)
	in.wantRecorded(status, answer, "new=1 duplicates=0 reached=committed")
	status, answer = in.once(`a "quote" and a \`, "?ack=committed", a)
	in.wantRecorded(status, answer, "new=0 duplicates=1 reached=committed")

	if status, answer = in.once("both", "", withID("1", "")); status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(answer["errors"]), "field:id") {
		t.Errorf("an update with an id of its own: %d %v", status, answer)
	}
}

func TestAnotherContentUnderAnIDIsRefusedWhereItIsKnownAndElseSetAside(t *testing.T) {
	in := newInstance(t)
	post := func(query, body string) problem {
		t.Helper()
		return wantProblem(t, do(in.api, "POST", "/v1/updates"+query, body, asJSON), idReused)
	}
	if p := post("", "["+withID("1", "")+","+plain+","+withID("1", `,"team_id":"t"`)+"]"); len(p.Errors) != 1 || p.Errors[0].Index != 2 || p.Errors[0].Field != "id" {
		t.Errorf("%+v", p)
	}
	if n := in.pipeline.Status().Accepted; n != 0 {
		t.Errorf("%d updates were recorded", n)
	}
	if status, answer := in.post("", "application/json", withID("1", "")); status != http.StatusAccepted {
		t.Fatal(status, answer)
	}
	post("", withID("1", `,"prompt_tokens":1`))
	if status, answer := in.once("key", "", plain); status != http.StatusAccepted {
		t.Fatal(status, answer)
	}
	w := do(in.api, "POST", "/v1/updates", `{"spend":9,"api_key":"k"}`, asJSON, keyHeader+": key")
	if p := wantProblem(t, w, idReused); len(p.Errors) != 0 || !strings.Contains(p.Detail, keyHeader) {
		t.Errorf("%+v", p)
	}

	// Once it is in the books, only these know.
	in.run()
	status, answer := in.post("?ack=committed", "application/json", withID("1", ""))
	in.wantRecorded(status, answer, "new=0 duplicates=1 reached=committed")
	status, answer = in.post("?ack=committed", "application/json", withID("1", `,"prompt_tokens":1`))
	in.wantRecorded(status, answer, "new=0 duplicates=0 conflicts=1 reached=committed")
	if lines, _ := in.list("/v1/quarantine", "entries", "kind", "updates", "spend"); len(lines) != 1 || !strings.Contains(lines[0], "conflict") {
		t.Errorf("in quarantine: %q", lines)
	}

	// Whoever knows the id finds it in the entry.
	_, known := in.get("/v1/ids/1")
	in.wantList("/v1/quarantine/1", "ids", "identity kind updates spend", fmt.Sprint(known["identity"], " update 1 1"))
}

func TestIDsAndKeysThatAreNoneAreRefusedByName(t *testing.T) {
	a, recorder := newAPI(t, nil)
	for what, id := range map[string]string{
		"empty": `""`, "257 bytes": `"` + strings.Repeat("x", 257) + `"`, "NUL": `"a\u0000"`, "no string": "7",
	} {
		p := wantProblem(t, do(a, "POST", "/v1/updates", `{"spend":1,"api_key":"k","id":`+id+`}`, asJSON), invalidUpdate)
		if len(p.Errors) != 1 || p.Errors[0].Field != "id" {
			t.Errorf("%s: %+v", what, p)
		}
	}
	wantProblem(t, do(a, "POST", "/v1/updates", "{\"spend\":1,\"api_key\":\"k\",\"id\":\"\xff\"}", asJSON), invalidJSON)
	for what, key := range map[string]string{
		"empty": "", "256 bytes": strings.Repeat("x", 256), "invalid UTF-8": "a\xff", "no end": `"a`, "an empty string": `""`, "something behind": `"a";b`,
		"a wrong escape": `"\a"`, "an escape at the end": `"\`, "beyond ASCII in a string": `"ä"`,
	} {
		if p := wantProblem(t, do(a, "POST", "/v1/updates", plain, asJSON, keyHeader+": "+key), invalidRequest); !strings.Contains(p.Detail, keyHeader) {
			t.Errorf("%s: %+v", what, p)
		}
	}
	wantProblem(t, do(a, "POST", "/v1/updates", plain, asJSON, keyHeader+": a", keyHeader+": b"), invalidRequest)
	if n := recorder.recorded(); n != 0 {
		t.Errorf("%d are recorded", n)
	}
	for _, key := range []string{"ä", strings.Repeat("x", 255), `"` + strings.Repeat("x", 255) + `"`} {
		if w := do(a, "POST", "/v1/updates", plain, asJSON, keyHeader+": "+key); w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s", key, w.Code, w.Body)
		}
	}
}

func TestARequestWithAKeyIsNoLargerThanABatch(t *testing.T) {
	in := newInstance(t)
	var body strings.Builder
	for i := range 2501 { // of 8 totals each
		fmt.Fprintf(&body, `,{"spend":1,"api_key":"k%d","user_id":"u%d","end_user_id":"e%d","team_id":"t%d","organization_id":"o%d","agent_id":"a%d","tags":["g%d"]}`, i, i, i, i, i, i, i)
	}
	all := "[" + body.String()[1:] + "]"
	if p := wantProblem(t, do(in.api, "POST", "/v1/updates", all, asJSON, keyHeader+": large"), contentTooLarge); !strings.Contains(p.Detail, "20000 entities") {
		t.Errorf("%+v", p)
	}
	if w := do(in.api, "POST", "/v1/updates", all, asJSON); w.Code != http.StatusAccepted {
		t.Errorf("without a key: %d %s", w.Code, w.Body)
	}
}

func TestAWaitThatEndsSaysWhetherToSendAgain(t *testing.T) {
	a, recorder := newAPI(t, nil)
	recorder.wait = func(context.Context, spendflush.Stage) (spendflush.Stage, error) {
		return spendflush.Queued, context.DeadlineExceeded
	}
	for body, want := range map[string]string{
		plain: "do not send them again", withID("1", ""): "send them again, to any instance", "[" + plain + "," + withID("1", "") + "]": "do not send those without an id again",
	} {
		if p := wantProblem(t, do(a, "POST", "/v1/updates?ack=committed", body, asJSON), waitEnded); !strings.Contains(p.Detail, want) {
			t.Errorf("%s: %s", body, p.Detail)
		}
	}
	if p := wantProblem(t, do(a, "POST", "/v1/updates?ack=committed", plain, asJSON, keyHeader+": 1"), waitEnded); !strings.Contains(p.Detail, "send them again, to any instance") {
		t.Error(p.Detail)
	}
}

func TestWhatBecameOfAnIDIsTold(t *testing.T) {
	in := newInstance(t)
	state := func(path, want string) map[string]any {
		t.Helper()
		status, answer := in.get(path)
		if status != http.StatusOK || answer["state"] != want || answer["window_seconds"] != 36*24*3600.0 {
			t.Errorf("%s: %d %v; want %s", path, status, answer, want)
		}
		return answer
	}
	strange := "a/b ?.."
	byPath, byQuery := "/v1/ids/"+url.PathEscape(strange), "/v1/ids?id="+url.QueryEscape(strange)
	state(byPath, "unknown")
	if status, answer := in.post("", "application/json", withID(strange, "")); status != http.StatusAccepted {
		t.Fatal(status, answer)
	}
	if status, answer := in.once(strange, "", plain); status != http.StatusAccepted {
		t.Fatal(status, answer)
	}
	state(byPath, "held")
	state(byQuery, "held")
	state(byQuery+"&kind=request", "held")
	state("/v1/ids?id=..", "unknown")

	in.run()
	in.post("?ack=committed", "application/json", withID(strange, ""))
	in.once(strange, "?ack=committed", plain)
	if answer := state(byPath, "committed"); answer["committed_at"] == nil || answer["id"] != strange || answer["kind"] != "update" {
		t.Errorf("%v", answer)
	}
	state(byPath+"?kind=request", "committed")
	for _, path := range []string{"/v1/ids", "/v1/ids?id=", "/v1/ids/x?kind=key", "/v1/ids/%00", "/v1/ids/" + strings.Repeat("x", 257)} {
		in.wantProblem(path, invalidRequest)
	}
}
