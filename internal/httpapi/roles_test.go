package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/internal/access"
)

// Tokens with names, as in namedTokens.
const (
	writer   = "writer-0123456789abcdef"
	reader   = "reader-0123456789abcdef"
	operator = "operator-0123456789abcdef"

	namedTokens = "w write " + writer + "\nr read " + reader + "\no operate " + operator + "\nall all all-0123456789abcdef\n"
)

// keysIn are the keys of a file with the text.
func keysIn(text string) *access.Keys {
	list, err := access.Parse(text)
	if err != nil {
		panic(err)
	}
	return access.NewKeys(list)
}

func named(c *Config) { c.Keys = keysIn(namedTokens) }

// wanted are the roles of all that is served: whoever adds a route says here who may ask for it. ""
// needs no token.
var wanted = map[string]string{
	"POST /v1/updates": "write",
	"GET /v1/ids":      "read", "GET /v1/ids/{id}": "read",
	"GET /v1/spend": "read", "GET /v1/spend/{entity...}": "read", "GET /v1/usage": "read", "GET /v1/status": "read", "GET /v1/pipeline": "read",
	"GET /v1/events": "read", "GET /v1/entities": "read", "GET /v1/lost-batches": "read", "GET /v1/quarantine": "read",
	"GET /v1/quarantine/{id}": "read", "GET /metrics": "read",
	"GET /v1/audit": "operate", "POST /v1/quarantine/{id}/apply": "operate", "POST /v1/quarantine/{id}/drop": "operate",
	"GET /v1/session": "", "POST /v1/session": "", "DELETE /v1/session": "", "GET /healthz": "", "GET /readyz": "",
	"GET /": "", "GET /assets/{file...}": "", "GET /openapi.json": "",
	"GET /docs": "", "GET /docs/{document...}": "",
}

func TestEveryRouteAsksForItsRoleAndNoOtherOpensIt(t *testing.T) {
	a, recorder := newAPI(t, named)
	seen := 0
	for _, route := range a.served() {
		for method, do := range map[string]endpoint{"GET": route.get, "POST": route.post, "DELETE": route.delete} {
			if do == nil {
				continue
			}
			target := method + " " + route.path
			want, known := wanted[target]
			if !known {
				t.Errorf("%s: it isn't said which role it needs", target)
				continue
			}
			seen++
			if got := route.role.String(); got != want || route.open != (want == "") {
				t.Errorf("%s: the role is %q, open %t; want %q", target, got, route.open, want)
			}
			if documented := documentedRole(t, method, route.path); documented != want {
				t.Errorf("%s: the document says that it needs the role %q", target, documented)
			}
			path := strings.NewReplacer("{entity...}", "team/t", "{id}", "1", "{file...}", "page.css", "{document...}", "api").Replace(route.path)
			for role, token := range map[string]string{"write": writer, "read": reader, "operate": operator} {
				w := ask(t, a, method, path, token)
				if role == want || want == "" {
					if w == http.StatusForbidden || w == http.StatusUnauthorized {
						t.Errorf("%s with the role %s: %d", target, role, w)
					}
				} else if w != http.StatusForbidden {
					t.Errorf("%s with the role %s alone: %d", target, role, w)
				}
			}
		}
	}
	if seen != len(wanted) {
		t.Errorf("%d routes are served, %d are known here", seen, len(wanted))
	}
	if recorder.recorded() != 1 {
		t.Errorf("%d updates were recorded, of one writer", recorder.recorded())
	}
}

// documentedRole is the role that openapi.json gives an operation.
func documentedRole(t *testing.T, method, path string) string {
	t.Helper()
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(assets["/openapi.json"].body, &document); err != nil {
		t.Fatal(err)
	}
	path = strings.NewReplacer("{entity...}", "{entity_type}/{entity_id}", "{file...}", "{file}", "{document...}", "{document}").Replace(path)
	var operation struct{ Security []map[string][]string }
	if err := json.Unmarshal(document.Paths[path][strings.ToLower(method)], &operation); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if len(operation.Security) == 0 {
		return ""
	}
	if len(operation.Security) != 2 || !slices.Equal(operation.Security[0]["bearer"], operation.Security[1]["session"]) {
		t.Errorf("%s %s: %v", method, path, operation.Security)
	}
	return strings.Join(operation.Security[0]["bearer"], ",")
}

// ask returns the status of the answer. HEAD stands for GET where the answer wouldn't end.
func ask(t *testing.T, a *testAPI, method, path, token string) int {
	t.Helper()
	if path == "/v1/events" {
		method = "HEAD"
	}
	body := ""
	if method == "POST" {
		body = plain
	}
	return do(a, method, path, body, asJSON, "Authorization: Bearer "+token).Code
}

func TestARouteThatNamesNoRoleIsNobodys(t *testing.T) {
	a, _ := newAPI(t, named)
	all := caller{token: a.cfg.Keys.Now().Find("all-0123456789abcdef")}
	if p := a.authorize(&route{path: "/v1/new"}, all); p == nil {
		t.Error("it is open to whoever has any token")
	}
}

func TestARefusalNamesTheRoleAndThoseOfTheTokenAndNotTheToken(t *testing.T) {
	a, recorder := newAPI(t, named)
	w := do(a, "POST", "/v1/updates", plain, asJSON, "Authorization: Bearer "+reader)
	p := wantProblem(t, w, missingRole)
	if p.Role != "write" || !slices.Equal(p.Roles, []string{"read"}) || p.Detail != "this needs the role write; the token r has: read" {
		t.Errorf("%+v", p)
	}
	if strings.Contains(w.Body.String(), reader) || recorder.recorded() != 0 {
		t.Errorf("%s, %d recorded", w.Body, recorder.recorded())
	}
	_, cookie := signedInWith(t, a, reader) // a session is no more than its token
	wantProblem(t, do(a, "POST", "/v1/updates", plain, asJSON, cookie), missingRole)
	wantProblem(t, do(a, "POST", "/v1/quarantine/1/apply", `{"id":1}`, asJSON, cookie), missingRole)
	wantProblem(t, do(a, "GET", "/v1/nothing", "", cookie), notFound)
	if w := do(a, "GET", "/v1/session", "", cookie); strings.TrimSpace(w.Body.String()) != `{"needed":true,"signed_in":true,"name":"r","roles":["read"]}` {
		t.Errorf("the session says %s", w.Body)
	}
}

func TestATokenThatIsTakenOutOrHasOtherRolesLosesItsSessionsAndStreamsAndOthersDoNot(t *testing.T) {
	a, _ := newAPI(t, named)
	kept, cookie := map[string]string{}, map[string]string{}
	streams := map[string]func() bool{}
	for _, token := range []string{reader, "all-0123456789abcdef"} {
		_, cookie[token] = signedInWith(t, a, token)
		kept[token] = "Authorization: Bearer " + token
		for _, header := range []string{cookie[token], kept[token]} {
			r := requestWith(header)
			from, p := a.authenticate(r)
			if p != nil {
				t.Fatal(p)
			}
			streams[header] = func() bool { return a.isStillWelcome(&answer{from: from}, r) }
		}
	}
	for header, goesOn := range streams {
		if !goesOn() {
			t.Errorf("%.30s: the stream ends", header)
		}
	}
	a.cfg.Keys = keysIn("w write " + writer + "\nr write " + reader + "\n") // as a file does that was changed
	for header, goesOn := range streams {
		if goesOn() {
			t.Errorf("%.30s: the stream goes on", header)
		}
	}
	wantProblem(t, do(a, "GET", "/v1/status", "", cookie[reader]), missingRole)
	wantProblem(t, do(a, "GET", "/v1/status", "", kept[reader]), missingRole)
	wantProblem(t, do(a, "GET", "/v1/status", "", cookie["all-0123456789abcdef"]), unauthorized)
	wantProblem(t, do(a, "GET", "/v1/status", "", kept["all-0123456789abcdef"]), unauthorized)
}

// requestWith is a request with one header.
func requestWith(header string) *http.Request {
	r, _ := http.NewRequest("GET", "http://localhost/v1/events", nil)
	r.RemoteAddr = "192.0.2.1:1"
	name, value, _ := strings.Cut(header, ": ")
	r.Header.Set(name, value)
	return r
}

func TestWhichTokenBookedHowManyUpdatesIsAMetric(t *testing.T) {
	a, _ := newAPI(t, named)
	for range 2 {
		do(a, "POST", "/v1/updates", plain, asJSON, "Authorization: Bearer "+writer)
	}
	do(a, "POST", "/v1/updates", "["+plain+","+plain+"]", asJSON, "Authorization: Bearer all-0123456789abcdef")
	do(a, "POST", "/v1/updates", "nonsense", asJSON, "Authorization: Bearer "+writer)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			switch family.GetName() {
			case "spendflush_http_updates_total":
				got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			case "spendflush_http_tokens", "spendflush_http_tokens_stale":
				got[family.GetName()] = m.GetGauge().GetValue()
			}
		}
	}
	text, _ := json.Marshal(got)
	if string(text) != `{"all":2,"o":0,"r":0,"spendflush_http_tokens":4,"spendflush_http_tokens_stale":0,"w":2}` {
		t.Errorf("%s", text)
	}
}
