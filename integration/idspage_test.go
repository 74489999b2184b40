package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Ids that would dress up what stands beside them, with what the page has to show instead.
var dressedUp = map[string]string{
	"\u202e.txt evil":     `\u{202e}.txt evil`,
	"\u2067live\u2069":    `\u{2067}live\u{2069}`,
	"zero\u200bwidth":     `zero\u{200b}width`,
	"soft\u00adhyphen":    `soft\u{ad}hyphen`,
	"\ufeffmark":          `\u{feff}mark`,
	"filler\u3164":        `filler\u{3164}`,
	"variation\ufe0f":     `variation\u{fe0f}`,
	"two\nlines\tand tab": `two\u{a}lines\u{9}and tab`,
	"no\u00a0break":       `no\u{a0}break`,
	`said \u{202e}`:       `said \u{5c}u{202e}`,
}

// unseen finds texts on the page, attributes that are shown included, with a character that has no
// shape or turns others around.
const unseen = `[...document.querySelectorAll("body, body *")].flatMap(e => [...e.attributes].filter(a => ["aria-label", "title", "data-label"].includes(a.name)).map(a => a.value)
	.concat([...e.childNodes].filter(n => n.nodeType === Node.TEXT_NODE).map(n => n.data))).concat(document.title)
	.filter(text => /[\u00ad\u200b-\u200f\u202a-\u202e\u2066-\u2069\u3164\ufe0f\ufeff]/.test(text))`

func TestPageLetsNoIdDressUpItsAmountOrItsName(t *testing.T) {
	t.Parallel()
	b, _, in, _ := operator(t)
	// An id of letters that run from right to left is no trick, but its amount mustn't turn around
	// with it.
	const hebrew = "שלום"
	updates := []string{fmt.Sprintf(`{"spend": "9100.05", "user_id": %q, "team_id": %q, "model": %q}`, hebrew, hebrew, hebrew)}
	for id := range dressedUp {
		updates = append(updates, fmt.Sprintf(`{"spend": "9000.05", "user_id": %[1]s, "team_id": %[1]s, "model": %[1]s}`, quoted(id)))
	}
	in.post("[" + strings.Join(updates, ",") + "]")
	b.visit("#/spend?range=7d&by=day&group=user_id&tz=UTC")
	b.shows(".top-list", hebrew)
	b.shows(".legend", " others")
	b.click(".chart summary")
	b.shows(".chart table", hebrew)
	shown := js[string](b, `document.body.innerText`)
	for _, want := range dressedUp {
		if !strings.Contains(shown, want) { // in the lists of users and models, which have ten
			b.mayBeElsewhere(want)
		}
	}
	if texts := js[[]string](b, unseen); len(texts) > 0 {
		t.Errorf("the page shows %q", texts)
	}
	for _, place := range []string{".legend li", ".top-list li"} {
		order := js[string](b, fmt.Sprintf(`(() => {
			const item = [...document.querySelectorAll(%q)].find(e => e.textContent.includes(%q));
			const name = item.querySelector("bdi").getBoundingClientRect(), amount = item.querySelector(".number").getBoundingClientRect();
			const digits = document.createRange(), text = document.createTreeWalker(item.querySelector(".number"), NodeFilter.SHOW_TEXT).nextNode();
			const at = (i) => { digits.setStart(text, i); digits.setEnd(text, i + 1); return digits.getBoundingClientRect().left; };
			return name.right <= amount.left + 1 && at(0) < at(1) && at(1) < at(2) ? "" : item.innerText + ": " + JSON.stringify([name, amount, at(0), at(1), at(2)]);
		})()`, place, hebrew))
		if order != "" {
			t.Errorf("%s: the amount isn't behind the name, from left to right: %s", place, order)
		}
	}
	// Pointed at, names and numbers are in one sentence.
	js[chromedp.Void](b, `(() => {
		const over = document.querySelector(".u-over"), box = over.getBoundingClientRect();
		over.dispatchEvent(new MouseEvent("mouseenter", {bubbles: true, clientX: box.right - 20, clientY: box.top + 100}));
		over.dispatchEvent(new MouseEvent("mousemove", {bubbles: true, clientX: box.right - 20, clientY: box.top + 100}));
	})()`)
	b.until(fmt.Sprintf(`[...document.querySelectorAll(".says-chart bdi")].some(e => e.textContent === %q)`, hebrew))
	if texts := js[[]string](b, unseen); len(texts) > 0 {
		t.Errorf("pointed at, the page shows %q", texts)
	}
	b.quiet()
}

// mayBeElsewhere looks for an id by searching for it.
func (b *browser) mayBeElsewhere(want string) {
	b.t.Helper()
	for id, shown := range dressedUp {
		if shown != want {
			continue
		}
		js[chromedp.Void](b, fmt.Sprintf(`document.querySelector("#search").value = %s; document.querySelector("#search").dispatchEvent(new Event("input")); 0`, quoted(id)))
		b.until(fmt.Sprintf(`[...document.querySelectorAll("#found li bdi")].some(e => e.textContent === %s)`, quoted(want)))
		if texts := js[[]string](b, unseen); len(texts) > 0 {
			b.t.Errorf("the suggestions show %q", texts)
		}
	}
}

func TestPageShowsAnEntityOnlyWhereItsAddressNamesOne(t *testing.T) {
	t.Parallel()
	b, _, in, _ := operator(t)
	in.post(`[{"spend": "1.25", "team_id": "..", "user_id": "."}, {"spend": "0.5", "team_id": "a/b \u202e", "user_id": "x"}]`)
	js[chromedp.Void](b, `performance.setResourceTimingBufferSize(1e5)`)
	audits := `performance.getEntriesByType("resource").filter(e => e.name.includes("/v1/audit")).length`
	for _, hash := range []string{
		"#/entity/__proto__/x", "#/entity/constructor/x", "#/entity/team", "#/entity/team/", "#/entity/team/../../audit", "#/entity/team/a/b",
		"#/entity/team_member/x", "#/entity/team_member/x/y/z", "#/entity/team_member//y", "#/entity/Team/x", "#/entity/team/%ff",
	} {
		b.visit(hash)
		if h1 := js[string](b, `document.querySelector("h1").innerText`); h1 != "There is no such view" {
			t.Errorf("%s shows %q", hash, h1)
		}
	}
	if n := js[int](b, audits); n > 0 {
		t.Errorf("an address made the page ask for %d audits", n)
	}
	for hash, want := range map[string][2]string{
		"#/entity/team/..":                {"Team ..", "Spent so far $1.25"},
		"#/entity/user/.":                 {"User .", "Spent so far $1.25"},
		"#/entity/team_member/../.":       {"Team member . of ..", "Spent so far $1.25"},
		"#/entity/team/a%2Fb%20%E2%80%AE": {`Team a/b \u{202e}`, "Spent so far $0.50"},
	} {
		b.visit(hash)
		b.shows("h1", want[0])
		b.shows(".facts", want[1])
		b.shows(".facts", "Requests 1")
		_, name, _ := strings.Cut(strings.TrimPrefix(want[0], "Team member"), " ")
		b.until(fmt.Sprintf(`document.title.endsWith(%s)`, quoted(name+" · spendflush")))
	}
	b.quiet()

	// A link may say anything; the page doesn't repeat it as if it were so.
	b.visit("#/entity/team/" + "Call%20%2B1-555-0100%20at%20once")
	b.shows(".failure", "nothing was ever booked on this team")
	if shown := js[string](b, `document.querySelector("h1").innerText + document.title`); strings.Contains(shown, "555") {
		t.Errorf("the page says %q", shown)
	}
	b.quiet("404")

	// From the search one gets to every one of them.
	b.visit("#/spend")
	b.write("#search", ".."+kb.Enter)
	b.shows("h1", "Team ..")
	b.shows(".facts", "Spent so far $1.25")
}

// session asks an instance with a cookie.
func (in *instance) session(method, path, body string, cookies ...*http.Cookie) *http.Response {
	in.t.Helper()
	request, err := http.NewRequestWithContext(in.t.Context(), method, in.url+path, strings.NewReader(body))
	if err != nil {
		in.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for _, cookie := range cookies {
		request.AddCookie(cookie)
	}
	response, err := in.stack.http.Do(request)
	if err != nil {
		in.t.Fatal(err)
	}
	response.Body.Close()
	return response
}

func TestASignOutIsOneForEveryInstance(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	here, there := s.start("here"), s.start("there")
	signedIn := func() *http.Cookie {
		t.Helper()
		response := here.session("POST", "/v1/session", fmt.Sprintf(`{"token":%q}`, token))
		if cookies := response.Cookies(); response.StatusCode == http.StatusNoContent && len(cookies) == 1 {
			return cookies[0]
		}
		t.Fatal(response.Status)
		return nil
	}
	ended, other := signedIn(), signedIn()
	for _, in := range []*instance{here, there} {
		if response := in.session("GET", "/v1/status", "", ended); response.StatusCode != http.StatusOK {
			t.Errorf("%s: %s before the sign-out", in.name, response.Status)
		}
	}
	if response := here.session("DELETE", "/v1/session", "", ended); response.StatusCode != http.StatusNoContent {
		t.Fatal(response.Status)
	}
	if response := here.session("GET", "/v1/status", "", ended); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("where it was ended: %s", response.Status)
	}
	eventually(t, "the session is over there, too", func() string {
		if response := there.session("GET", "/v1/status", "", ended); response.StatusCode != http.StatusUnauthorized {
			return response.Status
		}
		return ""
	})
	for _, in := range []*instance{here, there, s.start("later")} {
		if response := in.session("GET", "/v1/status", "", other); response.StatusCode != http.StatusOK {
			t.Errorf("%s: the other session: %s", in.name, response.Status)
		}
	}
	for _, says := range []string{`"msg":"signed in","token":"token-`, `"msg":"signed out","token":"token-`} {
		here.said(&here.stderr, says, func(line string) bool {
			return strings.Contains(line, says) && strings.Contains(line, `"remote":"127.0.0.1"`)
		})
	}
	s.checkSecrets(here.process)
}
