package httpapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// fieldsOf reads CSV as RFC 4180 has it. That of encoding/csv makes LF of a CR LF within a text.
func fieldsOf(t testing.TB, text string) (records [][]string) {
	t.Helper()
	var record []string
	for text != "" {
		var field, rest string
		if quoted, ok := strings.CutPrefix(text, `"`); ok {
			var b strings.Builder
			for {
				part, after, ok := strings.Cut(quoted, `"`)
				if !ok {
					t.Fatalf("a quote has no end: %q", text)
				}
				b.WriteString(part)
				again, doubled := strings.CutPrefix(after, `"`)
				if !doubled {
					field, rest = b.String(), after
					break
				}
				b.WriteByte('"')
				quoted = again
			}
		} else {
			end := strings.IndexAny(text, ",\r")
			field, rest = text[:end], text[end:]
		}
		record = append(record, field)
		if after, ok := strings.CutPrefix(rest, ","); ok {
			text = after
			continue
		}
		after, ok := strings.CutPrefix(rest, "\r\n")
		if !ok {
			t.Fatalf("a line ends with %q", rest)
		}
		records, record, text = append(records, record), nil, after
	}
	return records
}

func TestIdsComeOutOfCSVByteForByte(t *testing.T) {
	ids := []string{"new\nline", "new\r\nline", "new\rline", "=x", "'=x", "''=x", "'x", `a"b`, "a,b", " a ", "a\n", "\n", "\t=1", "+1", "-1", "@x", "＝1", "é\u200b", "\ufeffa", `"`, "'"}
	in := newInstance(t)
	in.run()
	var lines strings.Builder
	for _, id := range ids {
		text, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "{\"spend\":1,\"team_id\":%s}\n", text)
	}
	if status, answer := in.post("?ack=committed", "application/x-ndjson", lines.String()); status != http.StatusOK {
		t.Fatalf("%d %v", status, answer)
	}
	slices.Sort(ids)
	for _, formulas := range []string{"raw", "escaped"} {
		for _, encoding := range []string{"identity", "gzip"} {
			got := in.teams(formulas, encoding)
			if formulas == "escaped" {
				for i, id := range got { // as the documentation says
					if bare := strings.TrimLeft(id, "'"); bare == "" {
						continue
					} else if bare != id && isFormula(bare) {
						got[i] = id[1:]
					} else if isFormula(bare) {
						t.Errorf("%q is run by a spreadsheet", id)
					}
				}
			}
			if !slices.Equal(got, ids) {
				t.Errorf("%s, %s: got %q\nwant %q", formulas, encoding, got, ids)
			}
		}
	}
}

// teams are the ids that the CSV of all teams has.
func (in *instance) teams(formulas, encoding string) (ids []string) {
	in.t.Helper()
	request, err := http.NewRequestWithContext(in.t.Context(), http.MethodGet, in.url+"/v1/usage?entity_type=team&by=total&group_by=entity_id&format=csv&formulas="+formulas, http.NoBody)
	if err != nil {
		in.t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", encoding)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		in.t.Fatal(err)
	}
	defer answer.Body.Close()
	var text string
	if encoding == "gzip" {
		text = unzipped(in.t, answer.Body)
	} else {
		all, err := io.ReadAll(answer.Body)
		if err != nil {
			in.t.Fatal(err)
		}
		text = string(all)
	}
	for _, record := range fieldsOf(in.t, text)[1:] {
		ids = append(ids, record[0])
	}
	return ids
}
