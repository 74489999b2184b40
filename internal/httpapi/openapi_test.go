package httpapi

import (
	"bytes"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

func TestTheDocumentIsServedAndValidOpenAPI(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	w := do(a, "GET", "/openapi.json", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	served, err := jsonschema.UnmarshalJSON(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/openapi-3.1-schema.json") // that of the OpenAPI Initiative, as of 2022-10-07
	if err != nil {
		t.Fatal(err)
	}
	meta, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("file:///meta.json", meta); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("file:///meta.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(served); err != nil {
		t.Error(err)
	}
}

// walk calls do for every object in the document.
func (n node) walk(do func(node)) {
	switch value := n.value.(type) {
	case map[string]any:
		do(n)
		for name := range value {
			n.child(name).walk(do)
		}
	case []any:
		for i := range value {
			n.child(strconv.Itoa(i)).walk(do)
		}
	}
}

func TestEveryReferenceLeadsSomewhereEveryComponentIsUsedAndEverySchemaIsOne(t *testing.T) {
	d := theDocument()
	used := map[string]bool{
		"/components/responses/method-not-allowed": true, // of requests that are for no operation
		"/components/securitySchemes/bearer":       true, "/components/securitySchemes/session": true,
	}
	d.root.walk(func(n node) {
		if ref, ok := n.child("$ref").value.(string); ok {
			used[strings.TrimPrefix(ref, "#")] = true
			if n.deref().value == nil {
				t.Errorf("%s refers to %s, which isn't there", n.at, ref)
			}
		}
		if n.child("schema").value != nil && !strings.HasSuffix(n.at, "/properties") {
			if _, err := d.schema(n.at + "/schema"); err != nil {
				t.Error(err)
			}
		}
	})
	for kind, components := range d.root.of("components").members() {
		for name, component := range components.members() {
			if !used["/components/"+kind+"/"+name] {
				t.Errorf("nothing uses %s", component.at)
			}
			if _, err := d.schema(component.at); kind == "schemas" && err != nil {
				t.Error(err)
			}
		}
	}
}

func TestEveryRouteIsDocumentedAndNothingElseIs(t *testing.T) {
	a, _ := newAPI(t, nil)
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	ids := map[string]bool{}
	for _, op := range theDocument().ops {
		found := a.routes.find(httptest.NewRequest(op.method, op.fill(), nil))
		if found == nil {
			t.Errorf("%s isn't served", op.path)
			continue
		}
		if do, _ := found.of(op.method); do == nil {
			t.Errorf("%s %s isn't served", op.method, op.path)
		}
		security, ok := op.of("security").value.([]any)
		if open := ok && len(security) == 0; open != found.open {
			t.Errorf("%s needs no token by the document: %t, by the route: %t", op.path, open, found.open)
		}
		if ids[op.id] || op.id == "" {
			t.Errorf("%s %s has the id %q", op.method, op.path, op.id)
		}
		ids[op.id] = true
		documented[op.method+" "+found.path] = true
		if !bytes.Contains(page, []byte(op.path+"`")) && !bytes.Contains(page, []byte(op.path+"\n")) {
			t.Errorf("docs/api.md doesn't mention %s", op.path)
		}
	}
	served := map[string]bool{}
	for _, route := range a.served() {
		for method, do := range map[string]endpoint{"GET": route.get, "POST": route.post, "DELETE": route.delete} {
			if do != nil {
				served[method+" "+route.path] = true
			}
		}
	}
	if !maps.Equal(documented, served) {
		t.Errorf("documented are\n%q, served are\n%q", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(served)))
	}
}

func TestEveryExampleIsAsItsSchemaSays(t *testing.T) {
	examples := 0
	check := func(schema node, value any) {
		t.Helper()
		examples++
		if err := schema.validate(value); err != nil {
			t.Error(err)
		}
	}
	theDocument().root.walk(func(n node) {
		if schema := n.child("schema"); schema.value != nil {
			if example := n.child("example"); example.value != nil {
				check(schema, example.value)
			}
			for _, example := range n.of("examples").members() {
				check(schema, example.of("value").value)
			}
		}
		if list, ok := n.child("examples").value.([]any); ok {
			for _, example := range list {
				check(n, example)
			}
		}
	})
	if examples < 30 {
		t.Errorf("only %d examples were found", examples)
	}
}

func TestListsOfNamesAreThoseOfTheCode(t *testing.T) {
	var entities []string
	for _, kind := range spend.EntityTypes() {
		entities = append(entities, kind.String())
	}
	for at, want := range map[string][]string{
		"/components/schemas/group":       pgstore.GroupNames(),
		"/components/schemas/entity-type": entities,
		"/components/schemas/book":        append([]string{"rollup"}, entities...),
	} {
		var got []string
		for _, name := range theDocument().place(at).child("enum").value.([]any) {
			got = append(got, fmt.Sprint(name))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %q, the code %q", at, got, want)
		}
	}
}
