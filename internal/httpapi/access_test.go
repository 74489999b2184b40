package httpapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

const oneUpdate = `{"spend":"0.5","api_key":"key-1"}`

// accessLog reads the lines of the access log in what a JSON handler has written.
func accessLog(t *testing.T, log *bytes.Buffer) (lines []map[string]any) {
	t.Helper()
	for scanner := bufio.NewScanner(log); scanner.Scan(); {
		line := map[string]any{}
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["msg"] == "request" {
			lines = append(lines, line)
		}
	}
	return lines
}

func logging(log *bytes.Buffer, on bool) func(*Config) {
	return func(c *Config) {
		c.Keys, c.AccessLog = keysOf("secret-1", "secret-2"), on
		c.Logger = slog.New(slog.NewJSONHandler(log, nil))
	}
}

func TestTheAccessLogHasALineForEachRequestAndNothingOfItsSecrets(t *testing.T) {
	var log bytes.Buffer
	a, _ := newAPI(t, logging(&log, true))
	const secret = "sk-of-somebody"
	good, second := "Authorization: Bearer secret-2", tokenOf(a, "secret-2").Name
	do(a, "POST", "/v1/updates", oneUpdate, asJSON, good, "X-Request-Id: of-the-proxy")
	do(a, "GET", "/v1/spend/api_key/"+secret+"?nonsense="+secret, "", good)
	do(a, "GET", "/v1/status?x="+secret, "", "Authorization: Bearer "+secret)
	do(a, "GET", "/"+secret, "", good)
	do(a, strings.Repeat("X", 5000), "/v1/status", "", good)
	for _, probe := range []string{"/healthz", "/readyz", "/metrics"} {
		do(a, "GET", probe, "", good)
	}
	if strings.Contains(log.String(), secret) || strings.Contains(log.String(), "secret-") {
		t.Errorf("a secret is in the log: %s", &log)
	}
	lines := accessLog(t, &log)
	want := []struct {
		method, route, token string
		status               float64
	}{
		{"POST", "/v1/updates", second, http.StatusAccepted},
		{"GET", "/v1/spend/{entity...}", second, http.StatusBadRequest},
		{"GET", "/v1/status", "", http.StatusUnauthorized},
		{"GET", "none", second, http.StatusNotFound},
		{strings.Repeat("X", longestMethod), "/v1/status", second, http.StatusMethodNotAllowed},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, w := range want {
		line := lines[i]
		seconds, _ := line["seconds"].(float64)
		if line["level"] != "INFO" || line["method"] != w.method || line["route"] != w.route || line["status"] != w.status ||
			line["token"] != w.token || line["bytes"] == 0.0 || seconds <= 0 || line["remote"] != "192.0.2.1" || line["request_id"] == "" {
			t.Errorf("line %d: %v", i, line)
		}
	}
	if lines[0]["request_id"] != "of-the-proxy" {
		t.Errorf("the id of the proxy became %v", lines[0]["request_id"])
	}
}

func TestARequestIdIsTakenUpIfItIsSaneElseMadeAndIsInTheAnswerTheProblemAndTheLog(t *testing.T) {
	for _, on := range []bool{true, false} {
		var log bytes.Buffer
		a, recorder := newAPI(t, logging(&log, on))
		recorder.err = errors.New("something strange")
		for given, taken := range map[string]bool{
			"of-the-proxy": true, strings.Repeat("a", maxRequestID): true, strings.Repeat("a", maxRequestID+1): false,
			"with blank": false, "caf\u00e9": false, "line\nbreak": false, "": false,
		} {
			log.Reset()
			w := do(a, "POST", "/v1/updates", oneUpdate, asJSON, "Authorization: Bearer secret-1", "X-Request-Id: "+given)
			var told problem
			if err := json.Unmarshal(w.Body.Bytes(), &told); err != nil {
				t.Fatal(err)
			}
			id := w.Header().Get("X-Request-Id")
			if id == "" || told.Request != id || (id == given) != taken {
				t.Errorf("on: %t: %q was given, %q is in the answer and %q in the problem", on, given, id, told.Request)
			}
			if lines := strings.Count(log.String(), `"request_id":"`+id+`"`); on && lines != 2 || !on && lines != 1 {
				t.Errorf("on: %t: %q is in %d lines: %s", on, id, lines, &log)
			}
		}
		if w := do(a, "GET", "/healthz", "", "X-Request-Id: one", "X-Request-Id: two"); w.Header().Get("X-Request-Id") == "one" {
			t.Error("one of two ids was taken up")
		}
	}
}

func TestWithoutAnAccessLogNothingIsLoggedAndNoIdIsMade(t *testing.T) {
	var log bytes.Buffer
	a, _ := newAPI(t, logging(&log, false))
	w := do(a, "POST", "/v1/updates", oneUpdate, asJSON, "Authorization: Bearer secret-1")
	if w.Code != http.StatusAccepted || w.Header().Get("X-Request-Id") != "" || log.Len() > 0 {
		t.Errorf("%d, %v, log: %s", w.Code, w.Header(), &log)
	}
}
