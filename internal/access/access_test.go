package access

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Tokens of the tests; none of their texts may be seen anywhere.
const (
	one   = "hidden-1-0123456789abcdef"
	two   = "hidden-2-0123456789abcdef"
	three = "hidden-3-0123456789abcdef"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAFileHasNamedTokensAndPlainOnes(t *testing.T) {
	list, err := listOf("f", "\ufeff# who may do what\n\nbilling  write\t"+one+"\r\n#\n  dashboards read,operate "+two+"\n"+three+",another-0123456789abcdef\n"+
		"all.of_it all other-0123456789abcdef", nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		one: "billing write", two: "dashboards read,operate", three: plainName(three) + " write,read,operate",
		"another-0123456789abcdef": plainName("another-0123456789abcdef") + " write,read,operate", "other-0123456789abcdef": "all.of_it write,read,operate",
	} {
		token := list.Find(text)
		if token == nil {
			t.Errorf("%s isn't found", want)
		} else if got := token.Name + " " + token.Roles.String(); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	if list.Find("") != nil || list.Find("#") != nil || list.Find("billing") != nil || list.Len() != 5 || list.Names() != 5 {
		t.Errorf("%d tokens of %d names", list.Len(), list.Names())
	}
}

func TestALineThatIsWrongIsNamedAndItsTokenIsNot(t *testing.T) {
	for text, want := range map[string]string{
		"billing write":                         "line 2: it has 2 fields; a line has",
		"billing write read " + one:             "line 2: it has 4 fields",
		"billing writes " + one:                 "line 2: the second field isn't a list of roles; allowed are write, read and operate",
		"billing write,,read " + one:            "line 2: the second field",
		one + " write billing":                  "line 2: the token is not allowed",
		"billing " + one + " write":             "line 2: the second field",
		"token-x write " + one:                  "line 2: the first field is not a name",
		"a/b write " + one:                      "line 2: the first field is not a name",
		strings.Repeat("n", 65) + " all " + one: "line 2: the first field is not a name",
		"billing write hidden-short":            "line 2: the token is not allowed; allowed are bearer tokens of 16",
		"billing write " + one + "," + two:      "line 2: the token is not allowed",
		one + ",hidden":                         "line 2: the token is not allowed",
		one + ",":                               "line 2: the token is not allowed",
		"hiddenhiddenhidden":                    "line 2: the token is not allowed",
		"#" + one:                               "line 2: it begins with # and no blank",
		"#billing write " + one:                 "line 2: it begins with # and no blank",
		"billing write hidden-ä-0123456789ab":   "line 2: the token is not allowed",
		three:                                   "line 2: it has the token of line 1",
		"x read " + three:                       "line 2: it has the token of line 1",
		"x read " + one + "\nx write " + two:    "line 3: the roles of x are read elsewhere",
	} {
		_, err := listOf("/run/tokens", three+"\n"+text+"\n", nil)
		if err == nil || !strings.HasPrefix(err.Error(), "/run/tokens: "+want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s\n  gives %v", text, err)
		}
	}
	many := ""
	for i := range MaxTokens + 1 {
		many += fmt.Sprintf("n%d all hidden-0123456789abcdef-%d\n", i, i)
	}
	if _, err := listOf("f", many, nil); err == nil || !strings.Contains(err.Error(), "1001 tokens; allowed are 1000") {
		t.Error(err)
	}
}

func TestANameMadeOfATokenIsTheSameOnAllInstancesAndTellsNothing(t *testing.T) {
	a, errA := Plain(one, two)
	b, errB := Plain(two, one)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if a.Find(one).Name != b.Find(one).Name || a.Find(one).Name == a.Find(two).Name || !isPlain(a.Find(one).Name) {
		t.Errorf("%s, %s, %s", a.Find(one).Name, b.Find(one).Name, a.Find(two).Name)
	}
	if got := a.Find(one).Name; got != "token-6beda797" {
		t.Errorf("a release has changed the name to %s: settled_by and metrics name the callers of before otherwise", got)
	}
	if nameRounds < 20_000 || KeyRounds < 600_000 {
		t.Errorf("a guess costs %d and %d rounds", nameRounds, KeyRounds)
	}
	for _, texts := range [][]string{{one, ""}, {one, "hidden hidden"}, {one, "hidden\n"}, {one, one}} {
		if _, err := Plain(texts...); err == nil || !strings.Contains(err.Error(), "token 2") || strings.Contains(err.Error(), "hidden") {
			t.Error(err)
		}
	}
}

func TestASessionKeyIsMadeOnceAndIsNotTheHash(t *testing.T) {
	list, err := Plain(one, two)
	if err != nil {
		t.Fatal(err)
	}
	key, again, other := list.Find(one).SessionKey(), list.Find(one).SessionKey(), list.Find(two).SessionKey()
	if bytes.Equal(key, list.Find(one).hash[:]) || bytes.Equal(key, other) || &key[0] != &again[0] {
		t.Error("keys are made of hashes, are the same, or are made anew each time")
	}
}

func TestAFileThatChangesIsTakenOnceItIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, "a all "+one+"\nb read "+two+"\n")
	keys, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	a, b := keys.Now().Find(one), keys.Now().Find(two)
	key := a.SessionKey()
	a.AddBooked(7)

	write(t, path, "a all "+one+"\nb write "+two+"\nc read "+three+"\n")
	keys.check(log)
	if keys.Now().Find(three) != nil {
		t.Error("it is taken at the first look: it may be half of a file")
	}
	keys.check(log)
	now := keys.Now()
	if now.Find(one) != a || !now.Has(a) || &now.Find(one).SessionKey()[0] != &key[0] {
		t.Error("a token that is as before isn't the same: its sessions end")
	}
	if now.Has(b) || now.Find(two) == nil || now.Find(two).Roles != Write || now.Find(three) == nil {
		t.Error("a token with other roles is the same as before, or a new one is missing")
	}
	if strings.Count(text.String(), "read again") != 1 || !strings.Contains(text.String(), "tokens=3 added=\"[b c]\" removed=[b]") {
		t.Errorf("the log is\n%s", &text)
	}

	// Another token under the name: the old one opens nothing, and the name's count goes on.
	write(t, path, "a all other-0123456789abcdef\n")
	keys.check(log)
	keys.check(log)
	if keys.Now().Find(one) != nil || keys.Now().Has(a) || keys.Now().Len() != 1 || keys.Now().Booked()["a"] != 7 || len(keys.Now().Booked()) != 1 {
		t.Errorf("%d tokens, booked %v", keys.Now().Len(), keys.Now().Booked())
	}
	if strings.Contains(text.String(), "0123456789abcdef") {
		t.Errorf("the log has a token:\n%s", &text)
	}
}

func TestAFileThatCannotBeTakenChangesNothingAndIsTold(t *testing.T) {
	for what, spoil := range map[string]func(path string){
		"empty":   func(path string) { write(t, path, "") },
		"comment": func(path string) { write(t, path, "# none\n") },
		"wrong":   func(path string) { write(t, path, "a all "+one+"\nb red "+two+"\n") },
		"missing": func(path string) { os.Remove(path) },
		"folder":  func(path string) { os.Remove(path); os.Mkdir(path, 0o700) },
	} {
		path := filepath.Join(t.TempDir(), "tokens")
		write(t, path, "a all "+one+"\n")
		keys, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		log := slog.New(slog.NewTextHandler(&text, nil))
		a := keys.Now().Find(one)
		spoil(path)
		for range 5 {
			keys.check(log)
		}
		if !keys.IsStale() || !keys.Any() || !keys.Now().Has(a) {
			t.Errorf("%s: stale %t, %d tokens", what, keys.IsStale(), keys.Now().Len())
		}
		if strings.Count(text.String(), "level=ERROR") != 1 || !strings.Contains(text.String(), path) || strings.Contains(text.String(), "hidden") {
			t.Errorf("%s: the log is\n%s", what, &text)
		}
		os.Remove(path)
		write(t, path, "a all "+one+"\n") // as it was
		keys.check(log)
		keys.check(log)
		if keys.IsStale() || keys.Now().Find(one) != a {
			t.Errorf("%s, mended: stale %t", what, keys.IsStale())
		}
		write(t, path, "b all "+two+"\n")
		keys.check(log)
		keys.check(log)
		if keys.Now().Find(two) == nil || keys.Now().Find(one) != nil {
			t.Errorf("%s: what is right then isn't taken", what)
		}
	}
}

func TestAnEmptyFileOpensNothingAtTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, "\n# none\n")
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
}
