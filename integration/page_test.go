package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/spendflush/spendflush"
)

// seed books what the views show: some teams, models and keys, and one row that is set aside.
func (s *stack) seed(in *instance) (mend func()) {
	s.t.Helper()
	mend = s.brimful()
	var updates []string
	for i := range 24 {
		updates = append(updates, fmt.Sprintf(`{"spend": "%d.0125", "team_id": "team-%d", "user_id": "user-%d", "api_key": "key-%d", "tags": ["<b>tag</b>"],
			"model": "model-%d", "custom_llm_provider": "provider-%d", "prompt_tokens": %d, "completion_tokens": 20, "time": %q}`,
			i%7+1, i%3, i%5, i%4, i%6, i%2, 100+i, time.Now().Add(-time.Duration(i)*5*time.Hour).Format(time.RFC3339)))
	}
	in.post("[" + strings.Join(updates, ",") + "]")
	in.post(onTop)
	return mend
}

var views = []string{"#/", "#/spend", "#/entity/team/team-1", "#/trouble"}

// operator is a browser in which the token was given, before an instance with something in its books. mend lets the row
// that is in quarantine be applied.
func operator(t *testing.T) (b *browser, s *stack, in *instance, mend func()) {
	t.Helper()
	b = newBrowser(t)
	s = newStack(t)
	in = s.start("only", "SPENDFLUSH_FLUSH_INTERVAL=50ms")
	mend = s.seed(in)
	b.theme("light")
	b.resize(1280, 900)
	b.do("open", chromedp.Navigate(in.url+"/"))
	b.shows("h1", "Sign in")
	b.accessible("sign-in")
	b.write("#token", "wrong"+kb.Enter)
	b.shows(".says", "token")
	b.quiet("401")
	b.write("#token", token+kb.Enter) // what was wrong is selected
	b.shows("#live", "Live")
	return b, s, in, mend
}

func TestPageShowsThePipelineLiveAndSaysWhenItIsLost(t *testing.T) {
	t.Parallel()
	b, _, in, _ := operator(t)
	if cookies := js[string](b, "document.cookie"); cookies != "" {
		t.Errorf("scripts can read %q", cookies)
	}
	b.shows(".path", "27 updates") // with those of the batch that fills the column
	in.post(`{"spend": "0.000000000001", "team_id": "team-1", "model": "model-1"}`)
	b.shows(".path", "28 updates")
	b.shows("table", "Last flushes")
	b.click("#theme")
	b.until(`document.documentElement.dataset.theme === "dark" && localStorage.getItem("spendflush-theme") === "dark"`)
	b.quiet()
	in.kill()
	b.shows("#live", "Connection lost, trying again")
	b.until(`document.querySelector("main.stale")`)

	again := in.stack.start("another", "SPENDFLUSH_LISTEN="+strings.TrimPrefix(in.url, "http://"))
	b.shows("#live", "Live")
	b.shows("table", again.name)
	b.click("#sign-out")
	b.shows("h1", "Sign in")
}

func TestPageIsAccessibleInBothThemesAndFitsAPhone(t *testing.T) {
	t.Parallel()
	b, _, _, _ := operator(t)
	for _, theme := range []string{"light", "dark"} {
		b.theme(theme)
		for _, view := range views {
			b.visit(view)
			b.accessible(view + ", " + theme)
		}
	}
	b.resize(360, 780)
	for _, view := range views {
		b.visit(view)
		b.narrow(view)
		b.accessible(view + ", narrow")
	}
	b.quiet()
}

func TestPageFindsATeamAndShowsWhatItSpent(t *testing.T) {
	t.Parallel()
	b, _, in, _ := operator(t)
	in.post(`{"spend": "0.000000000001", "team_id": "team-1", "model": "model-1"}`)
	b.findATeam()
	b.quiet()
}

func TestPageSettlesTheQuarantineAndAudits(t *testing.T) {
	t.Parallel()
	b, s, _, mend := operator(t)
	b.settleTheQuarantine(s, mend)
	b.click("#audit")
	b.shows(".result", "The books add up")
	b.reachableByKeys()
	b.quiet()
}

func (b *browser) findATeam() {
	b.t.Helper()
	b.visit("#/spend")
	b.write("#search", "team-1")
	b.shows("#found li", "team-1")
	b.write("#search", kb.ArrowDown+kb.Enter)
	b.shows("h1", "team-1")
	b.settled()
	b.shows(".facts", "00000000001") // to the last digit
	b.until(`document.querySelector(".plot canvas")`)
	b.click(".chart summary")
	b.shows(".chart table", "model-1")
	csv := js[string](b, `fetch(document.querySelector("a[download]").href).then(r => r.text())`)
	if want := "date,model,spend,api_requests"; len(csv) < len(want) || csv[:len(want)] != want {
		b.t.Errorf("the CSV begins with %.100q", csv)
	}
}

// settleTheQuarantine shows and applies the row, then drops a batch that can't be read. Nothing happens without the id typed.
func (b *browser) settleTheQuarantine(s *stack, mend func()) {
	b.t.Helper()
	id := s.number("SELECT max(id) FROM spendflush.quarantine")
	mend()
	b.visit("#/trouble")
	b.shows("table", "numeric field overflow")
	b.click(`[aria-label^="Show entry"]`)
	b.shows("dialog", "$1.25")
	b.accessible("an entry")
	b.click("dialog form button")
	b.until(`!document.querySelector("dialog")`)
	b.confirm("Apply", id)
	b.shows("main", "Nothing is open in quarantine")
	s.awaitTotal("full", "1.25")

	s.enqueue(spendflush.NewProducerID(time.Now()), 1, []byte("not a batch"))
	eventually(b.t, "the damaged batch is set aside", func() string {
		if s.number("SELECT count(*) FROM spendflush.quarantine") != 2 {
			return "not yet"
		}
		return ""
	})
	id = s.number("SELECT max(id) FROM spendflush.quarantine")
	b.visit("#/trouble?state=open")
	b.shows("table", "corrupt batch")
	b.confirm("Drop", id)
	b.shows("main", "Nothing is open in quarantine")
	b.visit("#/trouble?state=all")
	b.shows("table", "dropped")
	b.shows("table", "applied")
}

// confirm settles an entry: the button of the dialog can't be used before the id is typed.
func (b *browser) confirm(action string, id int64) {
	b.t.Helper()
	b.click(fmt.Sprintf(`[aria-label="%s entry %d"]`, action, id))
	b.until(`document.querySelector("dialog [type=submit]").disabled && document.activeElement.id === "typed"`)
	b.accessible(action)
	b.write("#typed", fmt.Sprint(id))
	b.click("dialog [type=submit]")
	b.until(`!document.querySelector("dialog")`)
}

// reachableByKeys goes through the page with Tab alone.
func (b *browser) reachableByKeys() {
	b.t.Helper()
	b.visit("#/trouble")
	js[chromedp.Void](b, `document.getElementById("skip").focus()`)
	want := map[string]bool{"Pipeline": false, "Spend": false, "Sign out": false, "Audit now": false, "theme": false}
	for range 25 {
		b.do("tab", chromedp.KeyEvent(kb.Tab))
		name := js[string](b, `(document.activeElement.getAttribute("aria-label") ?? document.activeElement.innerText).trim()`)
		name = strings.TrimPrefix(strings.TrimPrefix(name, "Light "), "Dark ")
		if _, ok := want[name]; ok {
			want[name] = true
		}
	}
	for name, reached := range want {
		if !reached {
			b.t.Errorf("%q can't be reached by Tab", name)
		}
	}
}
