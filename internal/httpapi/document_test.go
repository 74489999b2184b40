package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is openapi.json, to be looked into. It is safe for concurrent use.
type document struct {
	root node
	ops  []*described

	mu       sync.Mutex // of the compiler, and of schemas
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // by their places
}

// described is an operation of the document.
type described struct {
	node
	id, path, method string
	match            *regexp.Regexp // what it says of the path, as it is sent
}

// node is a part of the document.
type node struct {
	doc   *document
	at    string // JSON pointer
	value any    // nil: there is no such part
}

const documentURL = "file:///openapi.json"

// theDocument is read from what is served.
var theDocument = sync.OnceValue(func() *document {
	d, err := newDocument(assets["/openapi.json"].body)
	if err != nil {
		panic(err)
	}
	return d
})

func newDocument(text []byte) (*document, error) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	d := &document{compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(documentURL, value); err != nil {
		return nil, err
	}
	d.root = node{doc: d, value: value}
	names := regexp.MustCompile(`\\\{\w+\\\}`)
	for path, item := range d.root.of("paths").members() {
		segment := "[^/]*"
		if strings.HasPrefix(path, assetPrefix) {
			segment = ".*" // as its description says
		}
		match := regexp.MustCompile("^" + names.ReplaceAllString(regexp.QuoteMeta(path), segment) + "$")
		for method, op := range item.members() {
			d.ops = append(d.ops, &described{op, op.text("operationId"), path, strings.ToUpper(method), match})
		}
	}
	// The plainest path that fits is meant.
	slices.SortFunc(d.ops, func(a, b *described) int {
		if n := strings.Count(a.path, "{") - strings.Count(b.path, "{"); n != 0 {
			return n
		}
		return strings.Compare(a.path+a.method, b.path+b.method)
	})
	return d, nil
}

// deref follows a reference.
func (n node) deref() node {
	for {
		m, _ := n.value.(map[string]any)
		ref, ok := m["$ref"].(string)
		if !ok {
			return n
		}
		n = n.doc.place(strings.TrimPrefix(ref, "#"))
	}
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// place returns the part at a JSON pointer.
func (d *document) place(pointer string) node {
	n := d.root
	for _, name := range strings.Split(pointer, "/")[1:] {
		n = n.child(strings.NewReplacer("~1", "/", "~0", "~").Replace(name))
	}
	return n
}

// child returns a member or an element, without following a reference that it is.
func (n node) child(name string) node {
	at := n.at + "/" + pointerEscapes.Replace(name)
	switch value := n.value.(type) {
	case map[string]any:
		return node{n.doc, at, value[name]}
	case []any:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(value) {
			return node{n.doc, at, value[i]}
		}
	}
	return node{n.doc, at, nil}
}

// of goes down by names, and follows references.
func (n node) of(names ...string) node {
	for _, name := range names {
		n = n.deref().child(name)
	}
	return n.deref()
}

func (n node) text(name string) string {
	text, _ := n.of(name).value.(string)
	return text
}

// members returns the members of an object, with references followed.
func (n node) members() map[string]node {
	found := map[string]node{}
	m, _ := n.value.(map[string]any)
	for name := range m {
		found[name] = n.of(name)
	}
	return found
}

// elements returns the elements of an array, with references followed.
func (n node) elements() (found []node) {
	list, _ := n.value.([]any)
	for i := range list {
		found = append(found, n.of(strconv.Itoa(i)))
	}
	return found
}

// schema returns the schema at the place.
func (d *document) schema(at string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.schemas[at] == nil {
		schema, err := d.compiler.Compile(documentURL + "#" + at)
		if err != nil {
			return nil, err
		}
		d.schemas[at] = schema
	}
	return d.schemas[at], nil
}

// validate says how value breaks the schema that the part is.
func (n node) validate(value any) error {
	schema, err := n.doc.schema(n.at)
	if err == nil {
		err = schema.Validate(value)
	}
	return err
}

// problemsOf returns the slugs of the problems that the content of a response may be.
func problemsOf(content node) (slugs []string) {
	schema := content.child("schema")
	list := []node{schema}
	if one := schema.of("oneOf"); one.value != nil {
		list = nil
		for i := range one.value.([]any) {
			list = append(list, one.child(strconv.Itoa(i)))
		}
	}
	for _, n := range list {
		slugs = append(slugs, strings.TrimPrefix(n.deref().at, "/components/schemas/problem."))
	}
	return slugs
}

// answers lists what the operation may answer: the status with the media type, or with the slug of
// the problem.
func (op *described) answers() (list []string) {
	for status, response := range op.of("responses").members() {
		contents := response.of("content").members()
		if len(contents) == 0 {
			list = append(list, status)
		}
		for media, content := range contents {
			names := []string{media}
			if media == problemMedia {
				names = problemsOf(content)
			}
			for _, name := range names {
				list = append(list, status+" "+name)
			}
		}
	}
	slices.Sort(list)
	return list
}

// parts returns what a schema is made of beside its own properties.
func (n node) parts() (alternatives, others []node) {
	m, _ := n.value.(map[string]any)
	if _, isRef := m["$ref"]; isRef {
		others = append(others, n.deref())
	}
	for _, keyword := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := m[keyword].([]any)
		for i := range list {
			part := n.child(keyword).child(strconv.Itoa(i))
			if keyword == "allOf" {
				others = append(others, part)
			} else {
				alternatives = append(alternatives, part)
			}
		}
	}
	for _, keyword := range []string{"then", "else"} {
		if m[keyword] != nil {
			others = append(others, n.child(keyword))
		}
	}
	return alternatives, others
}

// properties returns the schemas of the members that an object may have by this schema's own word.
func (n node) properties() map[string]node {
	found := map[string]node{}
	own, _ := n.child("properties").value.(map[string]any)
	for name, schema := range own {
		if schema != false {
			found[name] = n.child("properties").child(name)
		}
	}
	return found
}

// describedMembers notes the places of the schemas of all members, at any depth, that a value of
// this schema may have.
func (n node) describedMembers(places map[string]bool) {
	alternatives, others := n.parts()
	for _, part := range append(alternatives, others...) {
		part.describedMembers(places)
	}
	if items := n.child("items"); items.value != nil {
		items.describedMembers(places)
	}
	for _, member := range n.properties() {
		if !places[member.at] {
			places[member.at] = true
			member.describedMembers(places)
		}
	}
}

// seenMembers notes the places of the schemas of the members that the value has, which the schema
// allows.
func (n node) seenMembers(value any, places map[string]bool) {
	alternatives, others := n.parts()
	for _, part := range alternatives {
		if part.validate(value) == nil {
			part.seenMembers(value, places)
		}
	}
	for _, part := range others {
		part.seenMembers(value, places)
	}
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			n.child("items").seenMembers(element, places)
		}
	case map[string]any:
		for name, member := range n.properties() {
			if has, ok := value[name]; ok {
				places[member.at] = true
				member.seenMembers(has, places)
			}
		}
	}
}

// lax says where an object in the value, which the schema allows, could have a member more. It
// passes over objects that have the place and the members of one that was probed before.
func (n node) lax(value any, probed map[string]bool) error {
	var faults []error
	each(value, n.at+" ", func(object map[string]any, at string) {
		const strange = "a member that is not documented"
		kind := at + " " + strings.Join(slices.Sorted(maps.Keys(object)), ",")
		if probed[kind] {
			return
		}
		probed[kind] = true
		object[strange] = true
		if n.validate(value) == nil {
			faults = append(faults, fmt.Errorf("the schema allows undocumented members at %s", at))
		}
		delete(object, strange)
	})
	return errors.Join(faults...)
}

// each calls do for every object in the value, with its place.
func each(value any, at string, do func(object map[string]any, at string)) {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			each(member, at+"/"+name, do)
		}
		do(value, at)
	case []any:
		for _, element := range value {
			each(element, at+"/…", do)
		}
	}
}
