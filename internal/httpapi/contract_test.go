package httpapi

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/spendflush/spendflush/internal/docpages"
	"github.com/spendflush/spendflush/internal/lab/testserver"
)

func init() {
	// Times are UTC in answers wherever this runs: a time in the local zone must not look like one
	// by chance.
	time.Local = time.FixedZone("elsewhere", -9*3600-1800)
}

func TestMain(m *testing.M) { testserver.Main(m, answered.complete) }

const problemMedia = "application/problem+json"

// testAPI is an API whose every answer is held to openapi.json.
type testAPI struct {
	*API
	t       testing.TB
	running sync.WaitGroup // requests
}

func newTestAPI(t testing.TB, c Config) *testAPI {
	t.Helper()
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	tested := &testAPI{API: a, t: t}
	t.Cleanup(tested.running.Wait)
	return tested
}

// ServeHTTP answers as the API does, and fails the test if the answer isn't as documented.
func (a *testAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ok := a.t.(*testing.T); !ok { // a benchmark measures the API alone
		a.API.ServeHTTP(w, r)
		return
	}
	a.running.Add(1)
	defer a.running.Done()
	copied := &recording{ResponseWriter: w}
	a.API.ServeHTTP(copied, r) // where the connection is cut there is no answer to look at
	if err := answered.check(r, copied); err != nil {
		a.t.Errorf("%s %s: the answer isn't as documented: %v\nbody: %.2000s", r.Method, r.URL, err, copied.body.String())
	}
}

// recording is a copy of an answer.
type recording struct {
	http.ResponseWriter
	status int
	header http.Header
	body   bytes.Buffer
	long   bool // body has only a part
}

const recordedBytes = 8 << 20

func (w *recording) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.header = status, w.Header().Clone()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recording) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status, w.header = http.StatusOK, w.Header().Clone()
	}
	if w.long = w.long || w.body.Len()+len(b) > recordedBytes; !w.long {
		w.body.Write(b)
	}
	return w.ResponseWriter.Write(b)
}

// inflate has the body as it was before it was compressed, if it was.
func (w *recording) inflate() error {
	if w.header.Get("Content-Encoding") != "gzip" || w.long || w.body.Len() == 0 {
		return nil
	}
	z, err := gzip.NewReader(&w.body)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(z)
	w.body = *bytes.NewBuffer(text)
	return err
}

// Unwrap is for http.ResponseController.
func (w *recording) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answered is what the tests have seen of what is documented.
var answered = seen{answers: map[string]bool{}, members: map[string]bool{}, probed: map[string]bool{}}

type seen struct {
	mu      sync.Mutex
	answers map[string]bool // operation, status, and media type or slug of the problem
	members map[string]bool // of their bodies: the places of their schemas
	probed  map[string]bool // objects in which the schema was seen to notice a member more
}

// check says how the answer breaks what is documented of the operation, and notes what it has seen.
func (s *seen) check(r *http.Request, w *recording) error {
	if w.status == 0 {
		w.status, w.header = http.StatusOK, w.Header()
	}
	op, responses := documented(r)
	response, ok := responses[strconv.Itoa(w.status)]
	if !ok {
		return fmt.Errorf("status %d is not documented; %q are", w.status, slices.Sorted(maps.Keys(responses)))
	}
	name := strconv.Itoa(w.status)
	err := checkHeaders(response, w.header)
	if inflateErr := w.inflate(); inflateErr != nil {
		return inflateErr
	}
	contents := response.of("content").members()
	switch media, _, _ := mime.ParseMediaType(w.header.Get("Content-Type")); {
	case r.Method == http.MethodHead:
	case len(contents) == 0:
		if w.body.Len() > 0 {
			err = errors.Join(err, errors.New("no body is documented"))
		}
	default:
		if contents[media].value == nil {
			media = "*/*" // a part of something
		}
		content := contents[media]
		if content.value == nil {
			return errors.Join(err, fmt.Errorf("content of type %q is not documented", w.header.Get("Content-Type")))
		}
		if media == problemMedia {
			name += " " + slugOf(w.body.Bytes())
		} else {
			name += " " + media
		}
		if !w.long {
			err = errors.Join(err, s.checkBody(op, content, media, w.body.Bytes()))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[op+" "+name] = true
	return err
}

// documented returns the id of the operation that the request is for, and what it may answer by
// status. Requests for what isn't served have answers, too.
func documented(r *http.Request) (id string, responses map[string]node) {
	d := theDocument()
	shared := func(names ...string) map[string]node {
		found := map[string]node{
			"401": d.root.of("components", "responses", "unauthorized"), "403": d.root.of("components", "responses", "refused"),
		}
		for _, name := range names {
			status, name, _ := strings.Cut(name, " ")
			found[status] = d.root.of("components", "responses", name)
		}
		return found
	}
	isPath := false
	for _, op := range d.ops {
		if !op.match.MatchString(r.URL.EscapedPath()) {
			continue
		}
		if op.method == r.Method || op.method == http.MethodGet && r.Method == http.MethodHead {
			return op.id, op.of("responses").members()
		}
		isPath = true
	}
	switch {
	case !isPath:
		return "no path", shared("404 not-found")
	case r.Method == http.MethodOptions:
		responses := shared()
		responses["204"] = node{doc: d, value: map[string]any{"headers": map[string]any{"Allow": map[string]any{"$ref": "#/components/headers/allow"}}}}
		return "options", responses
	default:
		return "no method", shared("405 method-not-allowed")
	}
}

// checkHeaders looks at the headers that answers of this API have some time.
func checkHeaders(response node, h http.Header) (err error) {
	known := response.of("headers").members()
	for _, name := range []string{"Allow", "ETag", "Retry-After", "Set-Cookie", "WWW-Authenticate"} {
		text, described := h.Get(name), known[name]
		var value any = text
		if n, parseErr := strconv.ParseInt(text, 10, 64); parseErr == nil {
			value = n
		}
		switch {
		case text == "" && described.of("required").value == true:
			err = errors.Join(err, fmt.Errorf("the header %s is missing", name))
		case text != "" && described.value == nil:
			err = errors.Join(err, fmt.Errorf("the header %s is not documented", name))
		case text != "":
			err = errors.Join(err, described.child("schema").validate(value))
		}
	}
	return err
}

func slugOf(body []byte) string {
	value, _ := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	m, _ := value.(map[string]any)
	text, _ := m["type"].(string)
	return strings.TrimPrefix(text, docpages.URL("api", ""))
}

// checkBody holds the body to its schema.
func (s *seen) checkBody(op string, content node, media string, body []byte) error {
	switch media {
	case "application/json", problemMedia:
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err != nil {
			return err
		}
		return s.checkValue(op, content.child("schema"), value)
	case "text/event-stream":
		return s.checkEvents(op, content.of("x-events"), string(body))
	}
	return nil
}

// checkEvents holds the events of a stream to their schemas. The last may be cut off, because the
// client left.
func (s *seen) checkEvents(op string, schemas node, stream string) (err error) {
	whole := stream[:strings.LastIndex(stream, "\n\n")+1]
	for block := range strings.SplitSeq(whole, "\n\n") {
		event, data, ok := strings.Cut(strings.TrimPrefix(block, "event: "), "\ndata: ")
		if !ok {
			continue // a comment, or when to come again
		}
		value, parseErr := jsonschema.UnmarshalJSON(strings.NewReader(data))
		err = errors.Join(err, parseErr, s.checkValue(op, schemas.child(event), value))
	}
	return err
}

// checkValue holds the value to the schema, and sees to it that the schema would notice more in it.
func (s *seen) checkValue(op string, schema node, value any) error {
	err := schema.validate(value)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && op != "openapi" { // whose answer has a schema elsewhere
		err = schema.lax(value, s.probed)
	}
	schema.seenMembers(value, s.members)
	return err
}

// complete says what is documented and was never seen, once all tests have run.
func (s *seen) complete() error {
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if flag.Lookup(name).Value.String() != "" {
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) == 0 {
		return nil // no test has run
	}
	wanted, members := map[string]bool{}, map[string]bool{}
	for _, op := range theDocument().ops {
		for _, answer := range op.answers() {
			wanted[op.id+" "+answer] = s.answers[op.id+" "+answer]
		}
		for _, response := range op.of("responses").members() {
			for _, content := range response.of("content").members() {
				schemas := content.members()["x-events"].members()
				schemas["schema"] = content.child("schema")
				for _, schema := range schemas {
					schema.describedMembers(members)
				}
			}
		}
	}
	for place := range members {
		wanted[place] = s.members[place]
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		_, excused := neverSeen[name]
		if wanted[name] == excused {
			faults = append(faults, fmt.Errorf("openapi.json: %q: seen %t, listed in neverSeen %t", name, wanted[name], excused))
		}
	}
	for name := range neverSeen {
		if _, known := wanted[name]; !known {
			faults = append(faults, fmt.Errorf("neverSeen has %q, which isn't documented", name))
		}
	}
	return errors.Join(faults...)
}

// neverSeen are the answers, and the members of answers, that are documented and that no test of
// this package can bring about, each with the reason.
var neverSeen = map[string]string{
	"/components/schemas/pipeline/properties/instances/items/properties/last_deadlock_at": "the flushes of one instance don't deadlock",
	"/components/schemas/audit/properties/checks/items/properties/days":                   "no rows are moved by hand here; the tests of package sql do",
}
