package integration

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Tokens of a file; none may be in any log.
const (
	gatewayToken   = "gateway-7b1f3c9d2e4a"
	dashboardToken = "dashboard-7b1f3c9d2e4a"
	operatorToken  = "operator-7b1f3c9d2e4a"
	tokensFile     = "# of the test\ngateway write " + gatewayToken + "\ndashboards read " + dashboardToken + "\nada read,operate " + operatorToken + "\n"
)

// replaceFile writes a file as programs should: whole, in place of the old one.
func replaceFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// withToken makes a request with a bearer token, or with a cookie if the text has the form of one.
func (in *instance) withToken(token, method, path, body string) (status int, answer string, header http.Header) {
	in.t.Helper()
	request, err := http.NewRequest(method, in.url+path, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	if strings.Contains(token, "=") {
		request.Header.Set("Cookie", token)
	} else if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := in.stack.http.Do(request)
	if err != nil {
		in.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	return response.StatusCode, string(text), response.Header
}

// wants checks the statuses of requests: a token and a request each.
func (in *instance) wants(want map[string]int) {
	in.t.Helper()
	for what, status := range want {
		fields := strings.Fields(what)
		body := ""
		if fields[1] == "POST" {
			body = `{"spend":"1","team_id":"t"}`
		}
		if got, answer, _ := in.withToken(fields[0], fields[1], fields[2], body); got != status {
			in.t.Errorf("%s: %d instead of %d: %s", what, got, status, answer)
		}
	}
}

func (in *instance) signIn(token string) (cookie string) {
	in.t.Helper()
	status, answer, header := in.withToken("", "POST", "/v1/session", fmt.Sprintf(`{"token":%q}`, token))
	if status != http.StatusNoContent {
		in.t.Fatal(status, answer)
	}
	cookie, _, _ = strings.Cut(header.Get("Set-Cookie"), ";")
	return cookie
}

func TestTokensOfAFileHaveRolesAndGoWithIt(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	path := filepath.Join(t.TempDir(), "tokens")
	replaceFile(t, path, tokensFile)
	in := s.start("roles", "SPENDFLUSH_TOKENS=", "SPENDFLUSH_TOKENS_FILE="+path)
	in.wants(map[string]int{
		gatewayToken + " POST /v1/updates?ack=committed": 200, gatewayToken + " GET /v1/pipeline": 403, gatewayToken + " GET /v1/audit": 403,
		dashboardToken + " POST /v1/updates": 403, dashboardToken + " GET /v1/pipeline": 200, dashboardToken + " GET /v1/audit": 403,
		operatorToken + " POST /v1/updates": 403, operatorToken + " GET /v1/pipeline": 200, operatorToken + " GET /v1/audit": 200,
		token + " GET /v1/pipeline": 401,
	})
	if _, metrics, _ := in.withToken(dashboardToken, "GET", "/metrics", ""); !strings.Contains(metrics, `spendflush_http_updates_total{token="gateway"} 1`) {
		t.Error("the metrics don't say which token has booked")
	}
	dashboards, ada := in.signIn(dashboardToken), in.signIn(operatorToken)
	in.wants(map[string]int{dashboards + " GET /v1/pipeline": 200, dashboards + " GET /v1/audit": 403, ada + " GET /v1/audit": 200})
	stream := in.openStream(ada)

	// One is taken out, one is added, and the others stay as they are.
	replaceFile(t, path, strings.Replace(tokensFile, "ada read,operate "+operatorToken, "grace all grace-7b1f3c9d2e4a", 1))
	in.logged("the tokens were read again")
	in.wants(map[string]int{
		operatorToken + " GET /v1/pipeline": 401, ada + " GET /v1/pipeline": 401, "grace-7b1f3c9d2e4a GET /v1/audit": 200,
		dashboards + " GET /v1/pipeline": 200, gatewayToken + " POST /v1/updates?ack=committed": 200,
	})
	if _, err := io.Copy(io.Discard, stream); err != nil { // it ends
		t.Errorf("the stream of the token that was taken out: %v", err)
	}

	// A file that is empty, wrong or gone opens nothing and closes nothing.
	for i, spoil := range []func(){
		func() { replaceFile(t, path, "") },
		func() { replaceFile(t, path, "gateway wrote "+gatewayToken+"\n") },
		func() { os.Remove(path) },
	} {
		spoil()
		in.loggedTimes("the tokens can't be read again", i+1)
		in.wants(map[string]int{
			gatewayToken + " POST /v1/updates?ack=committed": 200, dashboards + " GET /v1/pipeline": 200, operatorToken + " GET /v1/pipeline": 401,
		})
		if _, metrics, _ := in.withToken(dashboardToken, "GET", "/metrics", ""); !strings.Contains(metrics, "spendflush_http_tokens_stale 1") {
			t.Error("the metrics don't say that the file can't be taken")
		}
		replaceFile(t, path, strings.Replace(tokensFile, "ada read,operate "+operatorToken, fmt.Sprintf("n%d read n%d-7b1f3c9d2e4a5f", i, i), 1))
		in.loggedTimes("the tokens were read again", i+2)
	}
	replaceFile(t, path, tokensFile)
	in.loggedTimes("the tokens were read again", 5)
	in.wants(map[string]int{operatorToken + " GET /v1/audit": 200, "grace-7b1f3c9d2e4a GET /v1/audit": 401})
	in.stop(0)
	for _, secret := range []string{gatewayToken, dashboardToken, operatorToken} {
		if strings.Contains(in.stderr.String()+in.stdout.String(), secret) {
			t.Errorf("the token %.7s… is in the log", secret)
		}
	}
}

// loggedTimes waits until lines with the text were logged so many times.
func (in *instance) loggedTimes(text string, times int) {
	in.t.Helper()
	eventually(in.t, fmt.Sprintf("%q is logged %d times", text, times), func() string {
		if got := strings.Count(in.stderr.String(), text); got != times {
			return fmt.Sprintf("it is logged %d times", got)
		}
		return ""
	})
}

// openStream opens the events with a cookie, reads the first of them, and returns the rest.
func (in *instance) openStream(cookie string) io.Reader {
	in.t.Helper()
	request, err := http.NewRequestWithContext(in.t.Context(), "GET", in.url+"/v1/events", nil)
	if err != nil {
		in.t.Fatal(err)
	}
	request.Header.Set("Cookie", cookie)
	response, err := in.stack.http.Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		in.t.Fatal(response, err)
	}
	in.t.Cleanup(func() { response.Body.Close() })
	reader := bufio.NewReader(response.Body)
	if _, err := reader.ReadString('\n'); err != nil {
		in.t.Fatal(err)
	}
	return reader
}

func TestTokensOfAFileThatCannotBeTakenEndTheStart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                 "there is no token in it",
		"gateway write hidden-short\n":     "line 1: the token is not allowed",
		"\ngateway " + gatewayToken + "\n": "line 2: it has 2 fields",
	} {
		path := filepath.Join(t.TempDir(), "tokens")
		replaceFile(t, path, text)
		status, _, stderr := run(t, []string{
			"DATABASE_URL=postgres://localhost:1/db", "REDIS_URL=redis://localhost:1", "SPENDFLUSH_LISTEN=0.0.0.0:0", "SPENDFLUSH_TOKENS_FILE=" + path,
		}, "serve")
		if status != 2 || !strings.Contains(stderr, "SPENDFLUSH_TOKENS_FILE: "+path+": "+want) || strings.Contains(stderr, "hidden") || strings.Contains(stderr, gatewayToken) {
			t.Errorf("%q: exit status %d, %s", text, status, stderr)
		}
	}
}

func TestSecretsMayStandInFiles(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	dir := t.TempDir()
	var variables []string
	for name, value := range map[string]string{"DATABASE_URL": s.postgres, "REDIS_URL": s.redis, "SPENDFLUSH_TOKENS": token} {
		replaceFile(t, filepath.Join(dir, name), value+"\n")
		variables = append(variables, name+"=", name+"_FILE="+filepath.Join(dir, name))
	}
	in := s.start("files", variables...)
	if status, answer := in.record(1); status != http.StatusOK && status != http.StatusAccepted {
		t.Errorf("%d %s", status, answer)
	}
	in.stop(0)
	for name, value := range map[string]string{"DATABASE_URL": s.postgres, "REDIS_URL": s.redis, "SPENDFLUSH_TOKENS": token} {
		status, _, stderr := run(t, s.variables(name+"="+value, name+"_FILE="+filepath.Join(dir, name)), "status")
		if want := name + ": is set, and so is " + name + "_FILE"; status != 2 || !strings.Contains(stderr, want) {
			t.Errorf("both forms of %s: exit status %d, %s", name, status, stderr)
		}
	}
}
