package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/spend"
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

var views = []string{"#/", "#/spend", "#/spend?range=custom&from=2026-02-31&to=", "#/entity/team/team-1", "#/list/team_id", "#/entities/team_member", "#/trouble"}

// operator is a browser in which the token was given, before an instance with something in its
// books. mend lets the row that is in quarantine be applied.
func operator(t *testing.T) (b *browser, s *stack, in *instance, mend func()) {
	t.Helper()
	b = newBrowser(t)
	s = newStack(t)
	in = s.start("only", "SPENDFLUSH_FLUSH_INTERVAL=50ms", "SPENDFLUSH_GAP_GRACE=1s")
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
	b.shows("#foot", "Times are in "+js[string](b, "Intl.DateTimeFormat().resolvedOptions().timeZone"))
	b.shows("#foot", "Shown by only, spendflush "+testVersion)
	b.quiet()
	b.triesAgain(in)
	b.staysLiveWithoutAStream(in)
	b.do("open it directly again", chromedp.Navigate(in.url+"/"))
	b.shows("#live", "Live")
	in.kill()
	b.shows("#live", "Connection lost, trying again")
	b.shows(".banner.bad", "CONNECTION LOST This instance doesn't answer.")
	b.until(`document.querySelector("main.stale") && document.title === "✖ Pipeline · spendflush"`)
	b.accessible("the connection is lost")
	b.visit("#/spend")
	b.until(`[...document.querySelectorAll("main .failure")].filter(f => f.checkVisibility()).map(f => f.innerText.split("\n")[0].trim()).join() === "This instance doesn't answer"`)

	again := in.stack.start("another", "SPENDFLUSH_LISTEN="+strings.TrimPrefix(in.url, "http://"))
	b.shows("#live", "Live")
	b.shows(".facts", "Requests 28") // of seven days
	b.until(`!document.querySelector(".failure")`)
	b.visit("#/")
	b.shows(".banner.warn", "1 entry waits in quarantine")
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
	b, s, in, mend := operator(t)
	b.visit("#/trouble")
	b.shows(".result", "No audit is known yet.")
	b.settleTheQuarantine(s, mend)
	b.showsWhatIsLost(s)
	b.click("#audit")
	b.shows("table", "What was checked")
	told := `/^The books %s as of \d+ \w+ \d{4}, \d\d:\d\d:\d\d \S+; it took [\d.]+ m?s$/.test(document.querySelector(".result").innerText.trim())`
	b.until(fmt.Sprintf(told, "add up"))
	b.do("open it again", chromedp.Navigate(in.url+"/"), chromedp.Navigate(in.url+"/#/trouble"))
	b.until(`document.querySelector(".result")`)
	b.until(fmt.Sprintf(told, "added up"))
	b.reachableByKeys()
	b.quiet()
}

// triesAgain opens the page while it can't ask who is there.
func (b *browser) triesAgain(in *instance) {
	b.t.Helper()
	b.blocks(in.url + "/v1/session")
	b.do("reload", chromedp.Reload())
	b.shows("main", "This instance doesn't answer")
	b.shows("main", "Trying again by itself")
	b.blocks()
	b.shows("#live", "Live")
	b.shows("h1", "Pipeline")
	b.quiet("ERR_BLOCKED_BY_CLIENT")
}

// staysLiveWithoutAStream ends the stream of events, as instances do every quarter of an hour, and
// then leaves none over: nobody is alarmed.
func (b *browser) staysLiveWithoutAStream(in *instance) {
	b.t.Helper()
	proxy := faultproxy.New(b.t, strings.TrimPrefix(in.url, "http://"))
	b.do("open by another way", chromedp.Navigate("http://"+proxy.Addr()+"/"))
	b.shows("#live", "Live")
	js[chromedp.Void](b, `window.said = []; new MutationObserver(() => said.push(document.getElementById("live").innerText)).observe(document.getElementById("live"), {childList: true}); 0`)
	b.hears(4)
	proxy.Drop()
	in.post(`{"spend": "0.000000000001", "team_id": "team-1", "model": "model-1"}`)
	b.shows(".path", "29 updates")
	if said := js[[]string](b, "said"); len(said) > 0 {
		b.t.Errorf("a stream that ends alarms: %q", said)
	}
	b.quiet("ERR_") // of what was cut

	// Others take all the streams there are.
	proxy.Refuse(true)
	b.shows("#live", "Connection lost")
	for status := http.StatusOK; status == http.StatusOK; {
		request, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, in.url+"/v1/events", http.NoBody)
		if err != nil {
			b.t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		stream, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			b.t.Fatal(err)
		}
		defer stream.Body.Close()
		status = stream.StatusCode
	}
	proxy.Refuse(false)
	in.post(`{"spend": "0.000000000001", "team_id": "team-1", "model": "model-1"}`)
	b.shows(".path", "30 updates")
	b.shows("#live", "Live")
	b.quiet("ERR_", "503")
}

func (b *browser) findATeam() {
	b.t.Helper()
	b.visit("#/spend")
	b.write("#search", "team-1")
	b.shows("#found li", "team-1")
	b.write("#search", kb.ArrowDown+kb.Enter)
	b.shows("h1", "team-1")
	b.settled()
	b.until(`document.querySelector(".facts .amount").title.endsWith("00000000001")`) // to the last digit
	b.until(`document.querySelector(".plot canvas")`)
	b.click(".chart summary")
	b.shows(".chart table", "model-1")
	csv := js[string](b, `fetch(document.querySelector("a[download]").href).then(r => r.text())`)
	if want := "date,model,spend,api_requests"; len(csv) < len(want) || csv[:len(want)] != want {
		b.t.Errorf("the CSV begins with %.100q", csv)
	}
	b.visit("#/spend")
	b.write("#search", "user-3"+kb.Enter)                                           // without waiting for suggestions
	b.shows("h1", "User user-3")                                                    // and not what it is in its teams
	if title := js[string](b, "document.title"); title != "⚠ user-3 · spendflush" { // there is something in quarantine
		b.t.Errorf("the window is called %q", title)
	}
}

// settleTheQuarantine shows and applies the row, then drops a batch that can't be read. Nothing
// happens without the id typed.
func (b *browser) settleTheQuarantine(s *stack, mend func()) {
	b.t.Helper()
	id := s.number("SELECT max(id) FROM spendflush.quarantine")
	mend()
	b.visit("#/trouble")
	b.shows("table", "numeric field overflow")
	b.click(`[aria-label^="Show entry"]`)
	b.shows("dialog", "$1.25")
	b.accessible("an entry")
	b.do("escape", chromedp.KeyEvent(kb.Escape))
	b.until(`!document.querySelector("dialog") && document.activeElement.innerText === "Show"`)
	b.click(fmt.Sprintf(`[aria-label="Drop entry %d"]`, id))
	b.do("escape", chromedp.KeyEvent(kb.Escape))
	b.until(`!document.querySelector("dialog") && document.activeElement.innerText === "Drop"`)
	b.click(`[aria-label^="Show entry"]`)
	b.shows("dialog .actions", "Apply …")
	b.click("dialog .actions button")
	b.typeTheID("Apply", id)
	b.shows("main", "Nothing is open in quarantine")
	b.shows(".said", fmt.Sprintf("Entry %d was applied: it is in the books.", id))
	b.until(`document.activeElement.innerText === "Quarantine"`) // its button is gone
	s.awaitTotal("full", "1.25")

	s.enqueue(spend.NewProducerID(time.Now()), 1, []byte("not a batch"))
	b.shows("table", "a batch of 11 B unknown – corrupt batch") // by itself
	b.shows("#trouble-count", "1")
	id = s.number("SELECT max(id) FROM spendflush.quarantine")
	b.click(fmt.Sprintf(`[aria-label="Drop entry %d"]`, id))
	b.typeTheID("Drop", id)
	b.shows("main", "Nothing is open in quarantine")
	b.shows(".said", fmt.Sprintf("Entry %d was dropped.", id))
	b.visit("#/trouble?state=all")
	b.shows("table", "dropped")
	b.shows("table", "applied")
}

// lose lets a batch of an update and 0.25 dollars get lost.
func (s *stack) lose() {
	s.t.Helper()
	dead := spend.NewProducerID(time.Now())
	for _, sequence := range []uint64{1, 3} {
		s.enqueue(dead, sequence, s.handMade(dead, sequence, spent{"sk-search-1", "0.25"}).Bytes())
	}
}

func (b *browser) showsWhatIsLost(s *stack) {
	b.t.Helper()
	b.shows("main", "No batch was ever lost.")
	s.lose()
	b.shows("table", "0 2 1 update, $0.25") // shard, batch, what is missing
	b.accessible("a lost batch")
	b.shows("#trouble-count", "1")
}

// typeTheID settles an entry: the button of the dialog can't be used before the id is typed.
func (b *browser) typeTheID(action string, id int64) {
	b.t.Helper()
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
