package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

func decodeAll(t testing.TB, body string, f format) (*decoder, error) {
	t.Helper()
	d := &decoder{maxUpdates: 100}
	err := d.decode([]byte(body), f)
	return d, err
}

func TestEveryFieldArrivesWhereItBelongs(t *testing.T) {
	body := `{"spend":"-1.25","time":"2026-01-31T13:00:00.5+01:00","status":"failure",
		"api_key":"k","user_id":"u","end_user_id":"e","team_id":"t","organization_id":"o","agent_id":"a","tags":["x","y"],
		"model":"m","model_group":"g","custom_llm_provider":"p","mcp_namespaced_tool_name":"n","endpoint":"/v1",
		"prompt_tokens":1,"completion_tokens":2,"cache_read_input_tokens":3,"cache_creation_input_tokens":4}`
	d, err := decodeAll(t, body, formatJSON)
	if err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	got := d.updates[0]
	var other spend.Update
	if err := json.Unmarshal([]byte(body), &other); err != nil || !sameUpdate(&got, &other) {
		t.Errorf("%v: encoding/json reads %+v", err, other)
	}
	if want := time.Date(2026, 1, 31, 12, 0, 0, 5e8, time.UTC); !got.Time.Equal(want) {
		t.Errorf("time is %s, want %s", got.Time, want)
	}
	got.Time = time.Time{}
	want := spend.Update{
		Cost: spend.Cost{Spend: amount(t, "-1.25"), Status: spend.Failure, PromptTokens: 1, CompletionTokens: 2, CacheReadInputTokens: 3, CacheCreationInputTokens: 4},
		Series: spend.Series{
			APIKey: "k", UserID: "u", EndUserID: "e", TeamID: "t", OrganizationID: "o", AgentID: "a", Tags: []string{"x", "y"},
			Model: "m", ModelGroup: "g", CustomLLMProvider: "p", MCPNamespacedToolName: "n", Endpoint: "/v1",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestTimesAreTakenInEveryWayThatRFC3339Allows(t *testing.T) {
	for text, want := range map[string]string{
		"2026-01-31t12:00:00z":        "2026-01-31T12:00:00Z",
		"2026-01-31T12:00:00z":        "2026-01-31T12:00:00Z",
		"2026-01-31t13:00:00.5+01:00": "2026-01-31T12:00:00.5Z",
		"2026-06-30T23:59:60Z":        "2026-06-30T23:59:59Z", // a leap second counts in the hour that it ends
		"2026-12-31t23:59:60.25z":     "2026-12-31T23:59:59.25Z",
		"2026-12-31T15:59:60-08:00":   "2026-12-31T23:59:59Z",
	} {
		d, err := decodeAll(t, `{"spend":1,"time":"`+text+`"}`, formatJSON)
		if err != nil || len(d.faults) > 0 {
			t.Errorf("%s: %v %v", text, err, d.faults)
			continue
		}
		if got := d.updates[0].Time.UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

func amount(t testing.TB, text string) spend.Amount {
	t.Helper()
	a, err := spend.ParseAmount(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSpendIsReadFromItsDecimalTextAndNeverThroughAFloat(t *testing.T) {
	for text, want := range map[string]string{
		`0.1`:                      "0.1",
		`12345678.123456789012`:    "12345678.123456789012", // 20 digits; a float keeps 17
		`"12345678.123456789012"`:  "12345678.123456789012",
		`1e-7`:                     "0.0000001",
		`-2.5E+1`:                  "-25",
		`0.0000000000005`:          "0",
		`0.0000000000015`:          "0.000000000002",
		`"\u0031.5"`:               "1.5",
		`0`:                        "0",
		`-0`:                       "0",
		`1e-400000000000000000000`: "0",
	} {
		d, err := decodeAll(t, `{"api_key":"k","spend":`+text+`}`, formatJSON)
		if err != nil || len(d.faults) > 0 {
			t.Errorf("%s: %v %v", text, err, d.faults)
			continue
		}
		if got := d.updates[0].Spend.String(); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
}

func TestEscapesMeanWhatTheyStandForInNamesAndTexts(t *testing.T) {
	d, err := decodeAll(t, `{"sp\u0065nd":1,"api_key":"a\"\\\/\n\u00e9\ud83d\ude00","t\u0061gs":["\u0078","é😀"]}`, formatJSON)
	if err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	u := d.updates[0]
	if u.APIKey != "a\"\\/\né😀" || !reflect.DeepEqual(u.Tags, []string{"x", "é😀"}) {
		t.Errorf("got api_key %q, tags %q", u.APIKey, u.Tags)
	}
}

func TestNullIsAsGoodAsLeavingAFieldOut(t *testing.T) {
	var members []string
	for _, name := range fieldNames[1:] {
		members = append(members, fmt.Sprintf("%q:null", name))
	}
	d, err := decodeAll(t, `{"spend":1,`+strings.Join(members, ",")+`}`, formatJSON)
	if err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	if want := (spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}}); !reflect.DeepEqual(d.updates[0], want) {
		t.Errorf("got %+v", d.updates[0])
	}
}

// update returns an update with more members than the one that every update needs.
func update(members string) string { return `{"spend":1,"api_key":"k",` + members + `}` }

func TestWhatIsNotAnUpdateIsRefusedNamingIndexAndField(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	for _, c := range []struct {
		name, body string
		field      string
		says       string
		broken     bool
	}{
		{"an unknown field", update(`"colour":"red"`), "colour", "unknown field; allowed are spend, time", false},
		{"a field in another case", update(`"Model":"m"`), "Model", "unknown field", false},
		{"an unknown field with a value of any depth", update(`"x":{"a":[{"b":[1,2]}]}`), "x", "unknown field", false},
		{"a field given twice", update(`"model":"a","model":"a"`), "model", "is given twice", false},
		{"a field given twice, once with escapes", update(`"model":"a","mod\u0065l":"b"`), "model", "is given twice", false},
		{"a field given twice, once as null", update(`"model":null,"model":"b"`), "model", "is given twice", false},
		{"no spend", `{"api_key":"k"}`, "spend", "is missing", false},
		{"null as spend", `{"spend":null,"api_key":"k"}`, "spend", "is null", false},
		{"a boolean as spend", `{"spend":true,"api_key":"k"}`, "spend", "want a number, or a string that holds one, not a boolean", false},
		{"an object as spend", `{"spend":{},"api_key":"k"}`, "spend", "not an object", false},
		{"a word as spend", `{"spend":"abc","api_key":"k"}`, "spend", "want a decimal number of dollars", false},
		{"an empty text as spend", `{"spend":"","api_key":"k"}`, "spend", "want a decimal number of dollars", false},
		{"NaN in quotes as spend", `{"spend":"NaN","api_key":"k"}`, "spend", "want a decimal number of dollars", false},
		{"NaN as spend", `{"spend":NaN,"api_key":"k"}`, "", "not valid JSON", true},
		{"1e400 as spend", `{"spend":1e400,"api_key":"k"}`, "spend", "want less than 10^26 dollars", false},
		{"hexadecimal spend", `{"spend":"0x10","api_key":"k"}`, "spend", "want a decimal number of dollars", false},
		{"a leading zero", `{"spend":01,"api_key":"k"}`, "", "not valid JSON", true},
		{"negative tokens", update(`"prompt_tokens":-1`), "prompt_tokens", "-1: want a whole number in plain digits, 0 to 1000000000", false},
		{"a fraction of tokens", update(`"prompt_tokens":1.0`), "prompt_tokens", "1.0: want a whole number", false},
		{"tokens with an exponent", update(`"completion_tokens":1e3`), "completion_tokens", "1e3: want a whole number", false},
		{"tokens as text", update(`"cache_read_input_tokens":"3"`), "cache_read_input_tokens", "want a whole number, not a string", false},
		{"tokens beyond 64 bits", update(`"prompt_tokens":99999999999999999999999`), "prompt_tokens", "want a whole number", false},
		{"a number as id", update(`"user_id":7`), "user_id", "want a string, not a number", false},
		{"an array as id", update(`"user_id":["a"]`), "user_id", "want a string, not an array", false},
		{"a text as tags", update(`"tags":"a"`), "tags", "want an array of strings, not a string", false},
		{"a number among tags", update(`"tags":["a",1,2,null]`), "tags", "want an array of strings, not of a number", false},
		{"an object among tags", update(`"tags":[{"a":1}]`), "tags", "not of an object", false},
		{"an unknown status", update(`"status":"ok"`), "status", "allowed are success and failure", false},
		{"a time without zone", update(`"time":"2026-01-31T12:00:00"`), "time", "want RFC 3339", false},
		{"a date as time", update(`"time":"2026-01-31"`), "time", "want RFC 3339", false},
		{"a month that isn't", update(`"time":"2026-13-31T12:00:00Z"`), "time", "want RFC 3339", false},
		{"a time of one digit", update(`"time":"2026-01-31T1:00:00Z"`), "time", "want RFC 3339", false},
		{"a decimal comma in a time", update(`"time":"2026-01-31T12:00:00,5Z"`), "time", "want RFC 3339", false},
		{"a leap second in the middle of a month", update(`"time":"2026-01-15T23:59:60Z"`), "time", "want RFC 3339", false},
		{"a leap second at noon", update(`"time":"2026-01-31T12:00:60Z"`), "time", "want RFC 3339", false},
		{"a second 61", update(`"time":"2026-01-31T23:59:61Z"`), "time", "want RFC 3339", false},
		{"an offset of a day", update(`"time":"2026-01-31T12:00:00+24:00"`), "time", "want RFC 3339", false},
		{"an offset with too many minutes", update(`"time":"2026-01-31T12:00:00+01:60"`), "time", "want RFC 3339", false},
		{"an empty time", update(`"time":""`), "time", "want RFC 3339", false},
		{"seconds as time", update(`"time":1769860800`), "time", "want a string, not a number", false},
		{"the zero time, which would mean now", update(`"time":"0001-01-01T00:00:00Z"`), "time", "out of range", false},
		{"the zero time in another zone", update(`"time":"0001-01-01T01:00:00+01:00"`), "time", "out of range", false},
		{"invalid UTF-8 in an id", "{\"spend\":1,\"api_key\":\"a\xff\"}", "", "invalid UTF-8", true},
		{"half a surrogate pair", update(`"model":"\ud83d"`), "", "invalid", true},
		{"a raw control character", update("\"model\":\"a\x01\""), "", "not valid JSON", true},
		{"no value", `{"spend":}`, "", "not valid JSON", true},
		{"no end", `{"spend":1,"api_key":"k"`, "", "it ends too early", true},
		{"half a literal", `{"spend":1,"model":nul}`, "", "not valid JSON", true},
		{"a comma at the end", `{"spend":1,"api_key":"k",}`, "", "not valid JSON", true},
		{"a comment", `{"spend":1 /* cheap */,"api_key":"k"}`, "", "not valid JSON", true},
		{"a number as name", `{1:2}`, "", "not valid JSON", true},
		{"null", `null`, "", "want a JSON object with an update, not null", false},
		{"a number", `7`, "", "want a JSON object with an update, not a number", false},
		{"an array in the array", `[[]]`, "", "want a JSON object with an update, not an array", false},
		{"two texts", `{"spend":1,"api_key":"k"}{"spend":1,"api_key":"k"}`, "", "something follows the end", true},
		{"rubbish behind the end", `{"spend":1,"api_key":"k"} x`, "", "not valid JSON", true},
		{"a wall of brackets", deep, "", "not valid JSON", false},
		{"a wall of brackets in a field", update(`"x":` + deep), "", "not valid JSON", true},
		{"a bare word", `spend`, "", "not valid JSON", true},
		{"a byte order mark", "\ufeff" + update(`"model":"m"`), "", "not valid JSON", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := decodeAll(t, c.body, formatJSON)
			if err != nil || len(d.faults) == 0 {
				t.Fatalf("error %v, faults %v", err, d.faults)
			}
			f := d.faults[0]
			if f.Index != 0 || f.Field != c.field || !strings.Contains(f.Detail, c.says) {
				t.Errorf("fault is %+v, want field %q and a detail with %q", f, c.field, c.says)
			}
			if len(f.Detail) > 600 {
				t.Errorf("the detail has %d bytes", len(f.Detail))
			}
			if c.broken != d.broken && c.name != "a wall of brackets" {
				t.Errorf("broken is %t", d.broken)
			}
		})
	}
}

func TestOneAnswerNamesWhatIsWrongWithSeveralUpdates(t *testing.T) {
	d, err := decodeAll(t, `[{"spend":1,"api_key":"k"},{"spend":"x","model":7},{"spend":1,"api_key":"k"},{"colour":1}]`, formatJSON)
	if err != nil || len(d.updates) != 4 {
		t.Fatal(err, len(d.updates))
	}
	var got []string
	for _, f := range d.faults {
		got = append(got, fmt.Sprintf("%d %s", f.Index, f.Field))
	}
	if want := []string{"1 spend", "1 model", "3 colour", "3 spend"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !reflect.DeepEqual(d.bad, []bool{false, true, false, true}) {
		t.Errorf("bad is %v", d.bad)
	}
}

func TestABodyOfNothingButFaultsIsReadUpToTheFirstTwenty(t *testing.T) {
	d, err := decodeAll(t, `[`+strings.Repeat(`{},`, 99)+`{}]`, formatJSON)
	if err != nil || len(d.faults) != maxFaults || len(d.updates) != maxFaults {
		t.Fatalf("error %v, %d faults, %d updates read", err, len(d.faults), len(d.updates))
	}
}

func TestMoreUpdatesThanAllowedAreRefusedInEitherFormat(t *testing.T) {
	one := `{"spend":1,"api_key":"k"}`
	for f, separator := range map[format]string{formatJSON: ",", formatNDJSON: "\n"} {
		for n, want := range map[int]error{100: nil, 101: errTooMany} {
			body := strings.TrimSuffix(strings.Repeat(one+separator, n), separator)
			if f == formatJSON {
				body = "[" + body + "]"
			}
			if d, err := decodeAll(t, body, f); !errors.Is(err, want) || err == nil && len(d.updates) != n {
				t.Errorf("format %d, %d updates: error %v, %d read", f, n, err, len(d.updates))
			}
		}
	}
}

func TestTagsBeyondTheBoundTakeNoMemoryAndAreRefused(t *testing.T) {
	d, err := decodeAll(t, update(`"tags":[`+strings.Repeat(`"a",`, 100_000)+`"a"]`), formatJSON)
	if err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	if n := len(d.updates[0].Tags); n != spend.MaxTags+1 {
		t.Errorf("%d tags were kept", n)
	}
	if err := d.updates[0].Check(0); !errors.Is(err, spend.ErrInvalidUpdate) {
		t.Errorf("the root takes it: %v", err)
	}
}

func TestLinesAreReadWithOrWithoutANewlineAtTheEndAndWithBlankOnes(t *testing.T) {
	one := `{"spend":1,"api_key":"k"}`
	for _, body := range []string{one + "\n" + one, one + "\n" + one + "\n", "\n" + one + "\r\n\r\n \t\n" + one + "\r\n\n"} {
		d, err := decodeAll(t, body, formatNDJSON)
		if err != nil || len(d.faults) > 0 || len(d.updates) != 2 {
			t.Errorf("%q: error %v, faults %v, %d updates", body, err, d.faults, len(d.updates))
		}
		for i := range d.updates {
			if d.updates[i].APIKey != "k" {
				t.Errorf("%q: api_key of %d is %q", body, i, d.updates[i].APIKey)
			}
		}
	}
}

func TestABrokenLineIsNamedAndTheLinesBehindItAreCheckedToo(t *testing.T) {
	one := `{"spend":1,"api_key":"k"}`
	for name, c := range map[string]struct {
		body  string
		index int
		says  string
	}{
		"cut off in the middle":   {one + "\n\n{\"spend\":1,\"api\n" + one + "\n{}\n", 1, "line 3, "},
		"two updates on a line":   {one + "\n" + one + one + "\n{}", 1, "something follows the update on its line"},
		"an update on two lines":  {one + "\n{\"spend\":1,\n\"api_key\":\"k\"}\n{}", 1, "line 2, byte 37"},
		"an array of updates":     {one + "\n[" + one + "]\n{}", 1, "want a JSON object with an update, not an array"},
		"rubbish behind the line": {one + "\n" + one + "]\n{}", 1, "something follows the update on its line"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := decodeAll(t, c.body, formatNDJSON)
			if err != nil || len(d.faults) < 2 {
				t.Fatal(err, d.faults)
			}
			if f := d.faults[0]; f.Index != c.index || !strings.Contains(f.Detail, c.says) {
				t.Errorf("the first fault is %+v", f)
			}
			if f := d.faults[len(d.faults)-1]; f.Field != "spend" || f.Detail != "is missing" {
				t.Errorf("the last fault is %+v", f)
			}
		})
	}
}

func TestADecoderUsedAgainKeepsNothingOfTheBodyBefore(t *testing.T) {
	d := &decoder{maxUpdates: 10}
	body := []byte(`[{"spend":"9","status":"failure","time":"2026-01-31T12:00:00Z","api_key":"old","model":"old","tags":["a","b","c"],"prompt_tokens":5}]`)
	if err := d.decode(body, formatJSON); err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	tags := d.updates[0].Tags[:3]
	d.reset()
	if tags[0] != "" || tags[2] != "" || d.text != "" {
		t.Error("texts of the old body are kept alive")
	}
	if err := d.decode([]byte(`{"spend":1,"user_id":"new","tags":["z"]}`), formatJSON); err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	want := spend.Update{Cost: spend.Cost{Spend: spend.Dollars(1)}, Series: spend.Series{UserID: "new", Tags: []string{"z"}}}
	if !reflect.DeepEqual(d.updates[0], want) {
		t.Errorf("got %+v", d.updates[0])
	}
	d.reset()
	if err := d.decode([]byte(`{`), formatJSON); err != nil || len(d.faults) != 1 {
		t.Fatal(err, d.faults)
	}
}

func TestUpdatesSurviveAChangeOfTheBufferTheyWereReadFrom(t *testing.T) {
	body := []byte(`{"spend":1,"api_key":"key","tags":["tag","\u0074ag"]}`)
	d := &decoder{maxUpdates: 1}
	if err := d.decode(body, formatJSON); err != nil || len(d.faults) > 0 {
		t.Fatal(err, d.faults)
	}
	for i := range body {
		body[i] = '#'
	}
	if u := d.updates[0]; u.APIKey != "key" || u.Tags[0] != "tag" || u.Tags[1] != "tag" {
		t.Errorf("got %+v", u)
	}
}

func encode(t testing.TB, u *spend.Update) []byte {
	t.Helper()
	b, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzWhatTheDecoderAcceptsMeansTheSameWhenWrittenAgain(f *testing.F) {
	for _, seed := range []string{
		sampleUpdate(1), string(sampleArray(2)), sampleUpdate(1) + "\n" + sampleUpdate(2) + "\n", `{"spend":"1e-7","tags":["a\u0062"]}`,
		`{"spend":-0.5,"api_key":"\ud83d\ude00","time":"2026-01-31T12:00:00.123456789-07:30","status":null}`, `[]`, `{`, `{"spend":1e400}`,
		`{"spend":1,"prompt_tokens":1000000000,"x":[[{"a":null}]]}`,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	shared := &decoder{maxUpdates: 50}
	f.Fuzz(func(t *testing.T, body []byte, lines bool) {
		form := formatJSON
		if lines {
			form = formatNDJSON
		}
		d := &decoder{maxUpdates: 50}
		err := d.decode(body, form)
		shared.reset()
		if again := shared.decode(body, form); again != err || !reflect.DeepEqual(shared.faults, d.faults) && len(d.faults) > 0 {
			t.Fatalf("a used decoder says %v %v, a new one %v %v", again, shared.faults, err, d.faults)
		}
		if len(d.faults) > maxFaults || len(d.updates) > d.maxUpdates {
			t.Fatalf("%d faults, %d updates", len(d.faults), len(d.updates))
		}
		if err != nil || len(d.faults) > 0 {
			return
		}
		for i := range d.updates {
			u := &d.updates[i]
			back := &decoder{maxUpdates: 1}
			if err := back.decode(encode(t, u), formatJSON); err != nil || len(back.faults) > 0 {
				t.Fatalf("%s: %v %v", encode(t, u), err, back.faults)
			}
			if !sameUpdate(u, &back.updates[0]) || !sameUpdate(u, &shared.updates[i]) {
				t.Fatalf("got %+v\nthen %+v\nand %+v", u, back.updates[0], shared.updates[i])
			}
		}
	})
}

func sameUpdate(a, b *spend.Update) bool {
	x, y := *a, *b
	if !x.Time.Equal(y.Time) || len(x.Tags) != len(y.Tags) {
		return false
	}
	x.Time, y.Time = time.Time{}, time.Time{}
	if len(x.Tags) == 0 {
		x.Tags, y.Tags = nil, nil
	}
	return reflect.DeepEqual(x, y)
}
