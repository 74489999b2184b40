package httpapi

import (
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// company is what a parameter, or a parameter with a value, can't do without.
var company = map[string]string{
	"recordUpdates timeout": "ack=queued", "usage entity_id": "entity_type=team", "usage team_id": "entity_type=team_member",
	"entities order_by id": "entity_type=team", "entities after": "entity_type=team&order_by=id",
	"usage bom": "format=csv", "usage formulas": "format=csv",
	"spendByQuery team_id": "entity_type=team_member", "spendByQuery entity_type team_member": "team_id=team-1",
}

// ask sends a request for the operation in which the parameter has the value, and all else is as it
// should be.
func (op *described) ask(a *testAPI, parameter node, value string) *httptest.ResponseRecorder {
	name := parameter.text("name")
	if parameter.text("in") == "path" {
		other := *op
		other.path = strings.Replace(op.path, "{"+name+"}", url.PathEscape(value), 1)
		body := strings.Replace(goodBodies[op.id], "7", value, 1) // which repeats it
		return do(a, op.method, other.fill(), body, asJSON)
	}
	if parameter.text("in") == "header" {
		return do(a, op.method, op.fill(), goodBodies[op.id], asJSON, name+": "+value)
	}
	path, needed, _ := strings.Cut(op.fill(), "?")
	query, _ := url.ParseQuery(needed)
	for _, with := range []string{company[op.id+" "+name], company[op.id+" "+name+" "+value]} {
		for pair := range strings.SplitSeq(with, "&") {
			if other, text, ok := strings.Cut(pair, "="); ok {
				query.Set(other, text)
			}
		}
	}
	query.Set(name, value)
	return do(a, op.method, path+"?"+query.Encode(), goodBodies[op.id], asJSON)
}

// understood says whether a request was found to be as it should be, whatever came of it.
func understood(w *httptest.ResponseRecorder) bool {
	return w.Code < 500 && w.Code != http.StatusBadRequest
}

// inText writes a value as parameters have it.
func inText(value any) string {
	list, ok := value.([]any)
	if !ok {
		return fmt.Sprint(value)
	}
	var parts []string
	for _, element := range list {
		parts = append(parts, fmt.Sprint(element))
	}
	return strings.Join(parts, ",")
}

// fromText reads a parameter as its schema has it.
func fromText(schema node, text string) any {
	switch kind := schema.deref().text("type"); {
	case kind == "integer" && regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`).MatchString(text):
		return json.Number(text)
	case kind == "array":
		list := []any{}
		for part := range strings.SplitSeq(text, ",") {
			list = append(list, part)
		}
		return list
	}
	return text
}

func TestWhatTheDocumentSaysOfParametersIsTaken(t *testing.T) {
	in := newInstance(t)
	in.run()
	asked := 0
	for _, op := range theDocument().ops {
		for _, parameter := range op.of("parameters").elements() {
			schema := parameter.of("schema")
			values, _ := schema.child("enum").value.([]any)
			for _, n := range []node{parameter.child("example"), schema.child("default"), schema.child("minimum"), schema.child("maximum")} {
				values = append(values, n.value)
			}
			items, _ := schema.of("items").child("enum").value.([]any)
			for _, value := range append(values, items...) {
				if value == nil {
					continue
				}
				asked++
				if w := op.ask(in.api, parameter, inText(value)); !understood(w) {
					t.Errorf("%s, %s %v: %d %s", op.id, parameter.text("name"), value, w.Code, w.Body)
				}
			}
		}
	}
	if asked < 70 {
		t.Errorf("only %d values were found", asked)
	}
}

// beyond returns the numbers beside the bounds of the schema, which they break.
func beyond(schema node) (texts []string) {
	for name, step := range map[string]int64{"minimum": -1, "maximum": 1} {
		if bound, ok := new(big.Int).SetString(fmt.Sprint(schema.child(name).value), 10); ok {
			texts = append(texts, bound.Add(bound, big.NewInt(step)).String())
		}
	}
	return texts
}

func TestParametersThatTheDocumentRulesOutAreRefused(t *testing.T) {
	in := newInstance(t)
	refused := 0
	for _, op := range theDocument().ops {
		for _, parameter := range op.of("parameters").elements() {
			schema := parameter.child("schema")
			texts := append(beyond(schema.deref()), "", "x", "yesterday", "1e2", "1.5", "2026-13-01", "a\x00b", strings.Repeat("a", 257),
				"model,", "model,model", "OPEN")
			for _, text := range texts {
				if schema.validate(fromText(schema, text)) == nil {
					continue
				}
				refused++
				if w := op.ask(in.api, parameter, text); w.Code != http.StatusBadRequest && w.Code != http.StatusNotFound {
					t.Errorf("%s, %s %.20q: %d %s", op.id, parameter.text("name"), text, w.Code, w.Body)
				}
			}
		}
	}
	if refused < 200 {
		t.Errorf("only %d values were ruled out", refused)
	}
}

func TestExamplesOfBodiesAreTaken(t *testing.T) {
	in := newInstance(t)
	in.run()
	bodies := 0
	for _, op := range theDocument().ops {
		for media, content := range op.of("requestBody", "content").members() {
			examples := []any{content.of("example").value}
			for _, example := range content.of("examples").members() {
				examples = append(examples, example.of("value").value)
			}
			for _, example := range examples {
				if example == nil {
					continue
				}
				text, isText := example.(string)
				if !isText {
					encoded, err := json.Marshal(example)
					if err != nil {
						t.Fatal(err)
					}
					text = string(encoded)
				}
				bodies++
				if w := do(in.api, op.method, op.fill(), text, "Content-Type: "+media); !understood(w) {
					t.Errorf("%s: %s: %d %s", op.id, text, w.Code, w.Body)
				}
			}
		}
	}
	if bodies < 7 {
		t.Errorf("only %d examples were found", bodies)
	}
}

// with returns the members in JSON, with one more, or none of that name if the text is "".
func with(members map[string]string, name, text string) string {
	var parts []string
	for other, value := range members {
		if other != name {
			parts = append(parts, fmt.Sprintf("%q:%s", other, value))
		}
	}
	if text != "" {
		parts = append(parts, fmt.Sprintf("%q:%s", name, text))
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}"
}

// texts are values of every type, at bounds and beyond them.
func texts() []string {
	quoted := func(n int) string { return `"` + strings.Repeat("a", n) + `"` }
	tags := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`"t",`, n), ",") + "]"
	}
	return []string{
		"", "null", "true", "{}", "[]", `""`, `"x"`, `"success"`, `"SUCCESS"`, `"1.5"`, `"+.5e-3"`, `"1e"`, "0", "1", "-1", "1.5", "1000000000",
		"1000000001", "-1000000000", "-1000000001", `"a\u0000b"`, quoted(256), quoted(257), `["x"]`, "[1]", `[""]`, "[null]", tags(64), tags(65),
		`"2026-01-01"`, `"` + time.Now().UTC().Format(time.RFC3339) + `"`, `"` + time.Now().Format(time.RFC3339Nano) + `"`,
	}
}

func TestAnUpdateIsTakenIfAndOnlyIfTheDocumentAllowsIt(t *testing.T) {
	in := newInstance(t)
	schema := theDocument().place("/components/schemas/update")
	taken, refused := 0, 0
	for name := range membersAnd(schema) {
		for _, text := range texts() {
			body := with(map[string]string{"spend": "1", "api_key": `"k"`}, name, text)
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			allowed := schema.validate(value) == nil
			for _, sent := range []struct{ body, media string }{{body, asJSON}, {"[" + body + "]", asJSON}, {body + "\n", asNDJSON}} {
				w := do(in.api, "POST", "/v1/updates", sent.body, sent.media)
				switch {
				case allowed && w.Code != http.StatusAccepted, !allowed && w.Code != http.StatusBadRequest:
					t.Errorf("%.300s: allowed %t, but %d %s", sent.body, allowed, w.Code, w.Body)
				case allowed:
					taken++
				default:
					refused++
				}
			}
		}
	}
	if taken < 300 || refused < 300 {
		t.Errorf("%d were taken and %d refused", taken, refused)
	}
}

// membersAnd returns the names of the members of an object, and one that it doesn't have.
func membersAnd(schema node) map[string]node {
	names := schema.properties()
	names["cost"] = node{}
	return names
}

func TestSmallBodiesThatTheDocumentRulesOutAreRefused(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	refused := 0
	for _, op := range theDocument().ops {
		content := op.of("requestBody", "content", "application/json")
		if op.id == "recordUpdates" || content.value == nil {
			continue
		}
		for name := range membersAnd(content.of("schema")) {
			for _, text := range texts() {
				body := with(map[string]string{"token": `"secret-1"`}, name, text)
				if op.id != "signIn" {
					body = with(map[string]string{"id": "7"}, name, text)
				}
				value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if content.child("schema").validate(value) == nil {
					continue
				}
				refused++
				w := do(a, op.method, op.fill(), body, asJSON, "Authorization: Bearer secret-1")
				if w.Code != http.StatusBadRequest && w.Code != http.StatusUnauthorized {
					t.Errorf("%s: %.200s: %d %s", op.id, body, w.Code, w.Body)
				}
			}
		}
	}
	if refused < 100 {
		t.Errorf("only %d bodies were ruled out", refused)
	}
}
