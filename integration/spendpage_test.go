package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// reports counts the reports that the page has asked for.
const reports = `performance.getEntriesByType("resource").filter(e => e.name.includes("/v1/usage")).length`

// hears waits until n more events have come to the page's browser: for as long the page has had its
// chance to act.
func (b *browser) hears(n int) {
	b.t.Helper()
	js[chromedp.Void](b, fmt.Sprintf(`new Promise(done => {
		let n = 0;
		const source = new EventSource("/v1/events");
		source.addEventListener("pipeline", () => { if (++n === %d) { source.close(); done(); } });
	})`, n))
}

// query returns a parameter of the address of the view.
func (b *browser) query(name string) string {
	b.t.Helper()
	return js[string](b, fmt.Sprintf(`new URLSearchParams(location.hash.split("?")[1]).get(%q) ?? ""`, name))
}

// choose fills in the two dates as a picker does, and asks for them.
func (b *browser) choose(from, to string) {
	b.t.Helper()
	js[chromedp.Void](b, fmt.Sprintf(`document.querySelector("[name=from]").value = %q; document.querySelector("[name=to]").value = %q; 0`, from, to))
	b.click(".dates button")
}

// oneDay waits for the next UTC day if this one ends before the test is likely to.
func oneDay() {
	now := time.Now().UTC()
	if left := now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now); left < 2*time.Minute {
		time.Sleep(left)
	}
}

func TestPageShowsWhatWasSpentInCustomDatesAndKeepsThemInItsAddress(t *testing.T) {
	t.Parallel()
	oneDay()
	b, _, in, _ := operator(t)
	day := func(ago int) string { return time.Now().UTC().AddDate(0, 0, -ago).Format(time.DateOnly) }
	in.post(fmt.Sprintf(`[{"spend": "1.000000000001", "user_id": "ada", "model": "old", "time": "%sT12:00:00Z"}, {"spend": "2.5", "user_id": "ada", "model": "old", "time": "%sT23:00:00Z"},
		{"spend": "50", "user_id": "ada", "model": "old", "time": "%sT00:00:00Z"}]`, day(10), day(9), day(8)))
	b.visit("#/spend?range=30d&by=day&tz=UTC&amounts=exact")
	if from, to := js[string](b, `document.querySelector("[name=from]").value`), js[string](b, `document.querySelector("[name=to]").value`); from != day(29) || to != day(0) {
		t.Errorf("30 days are said to be from %s to %s", from, to)
	}
	b.choose(day(10), day(9))
	b.shows(".facts", "Spend $3.500000000001 Requests 2")
	b.settled()
	for range 2 { // as it was asked for, and as a bookmark
		b.shows(".facts", "Spend $3.500000000001 Requests 2")
		b.shows(".hint", "These days are over")
		if b.query("range") != "custom" || b.query("from") != day(10) || b.query("to") != day(9) || b.query("by") != "day" || b.query("tz") != "UTC" {
			t.Errorf("the address is %s", js[string](b, "location.hash"))
		}
		if chosen := js[string](b, `document.querySelector("[name=range]").value + document.querySelector("[name=from]").value + document.querySelector("[name=to]").value`); chosen != "custom"+day(10)+day(9) {
			t.Errorf("the choices say %s", chosen)
		}
		b.click(".chart summary")
		b.shows(".chart table", "When old")
		if rows := js[int](b, `document.querySelectorAll(".chart tbody tr").length`); rows != 2 {
			t.Errorf("the chart has %d days", rows)
		}
		csv := js[string](b, `fetch(document.querySelector("a[download]").href).then(r => r.text())`)
		if want := fmt.Sprintf("\r\n%s,old,1.000000000001,1,1,0,0,0,0,0\r\n%s,old,2.5,1,1,0,0,0,0,0\r\n", day(10), day(9)); !strings.HasSuffix(csv, want) {
			t.Errorf("the CSV is %q", csv)
		}
		b.do("reload", chromedp.Reload())
		b.settled()
	}
	js[chromedp.Void](b, `document.querySelector("[name=measure]").focus(); history.back()`)
	b.shows(".facts", "Requests 28") // 30 days
	if focus := js[string](b, `document.activeElement.name`); focus != "measure" {
		t.Errorf("another time is shown, and the focus goes to %q", focus)
	}
	b.refuses(day)

	// As much as the API takes can be chosen.
	b.visit("#/spend?range=custom&by=day&tz=UTC&from=" + day(1499) + "&to=" + day(400)) // before what fills the column
	b.shows("main", "Nothing was booked in this time.")
	b.visit("#/spend?range=custom&by=hour&tz=UTC&from=" + day(61) + "&to=" + day(0))
	b.shows(".facts", "Requests 28")
	js[chromedp.Void](b, `document.querySelector("[name=group]").value = ""; document.querySelector("[name=group]").dispatchEvent(new Event("change")); 0`)
	b.until(`document.querySelector(".legend").innerText.trim().startsWith("Spend $") && document.querySelector(".legend").childElementCount === 1`)
	if failures := js[int](b, `document.querySelectorAll(".failure").length`); failures > 0 || b.query("by") != "hour" {
		t.Errorf("%d parts of the view failed", failures)
	}
	b.quiet()
	b.showsUnstacked(in)
}

// refuses chooses dates that can't be shown: the page says why, and asks for nothing.
func (b *browser) refuses(day func(ago int) string) {
	b.t.Helper()
	b.settled()
	before, asked := js[string](b, "location.hash"), js[int](b, reports)
	for _, c := range []struct{ from, to, says string }{
		{day(1), day(2), "The first day, "},
		{"", day(2), "Give both dates, the first and the last day."},
		{day(1100), day(0), "These are 1,101 days; at most 1,100 can be shown."},
	} {
		b.choose(c.from, c.to)
		b.shows("#dates-problem", c.says)
		if focus := js[bool](b, `document.activeElement.type === "date" && document.activeElement.hasAttribute("aria-invalid")`); !focus {
			b.t.Errorf("%s: the focus isn't on a date that is marked as wrong", c.says)
		}
	}
	if after := js[string](b, "location.hash"); after != before {
		b.t.Errorf("refused dates change the address to %s", after)
	}
	b.visit("#/spend?range=custom&from=2026-02-31&to=2026-03-01")
	b.shows("main", "Correct the dates to see what was spent.")
	b.shows("#dates-problem", "Give both dates, the first and the last day.")
	b.accessible("wrong dates")
	if n := js[int](b, reports); n != asked {
		b.t.Errorf("%d reports were asked for with dates that are wrong", n-asked)
	}
}

// showsUnstacked looks at a day on which too many users spent something to stack them.
func (b *browser) showsUnstacked(in *instance) {
	b.t.Helper()
	at := time.Now().UTC().AddDate(0, 0, -20)
	for part := range 2 {
		var users []string
		for i := range 5001 {
			users = append(users, fmt.Sprintf(`{"spend": "0.001", "user_id": "user-%d-%d", "time": %q}`, part, i, at.Format(time.RFC3339)))
		}
		in.post("[" + strings.Join(users, ",") + "]")
	}
	date := at.Format(time.DateOnly)
	b.visit("#/spend?range=custom&by=day&group=user_id&tz=UTC&amounts=exact&from=" + date + "&to=" + date)
	b.shows(".chart", "There are too many users in this time to stack them; the CSV has all.")
	b.shows(".legend", "Spend $10.002")
	b.quiet("400") // which is how it learns
}

func TestPageRefreshesSpendByItselfAndLeavesTheReaderAlone(t *testing.T) {
	t.Parallel()
	oneDay()
	b, _, in, _ := operator(t)
	b.resize(1280, 500) // there is something to scroll
	b.visit("#/spend?range=7d&by=day&group=model&tz=UTC&amounts=exact")
	b.shows(".facts", "Spend $91.55 Requests 25")
	b.click(".chart summary")
	js[chromedp.Void](b, `performance.setResourceTimingBufferSize(1e5);
		window.was = {link: document.querySelector('a[href="#/entity/team/team-1"]'), canvas: document.querySelector(".plot canvas")};
		was.link.focus(); scrollTo(0, 400); getSelection().selectAllChildren(document.querySelector("figcaption")); was.scrolled = scrollY; 0`)
	// The last of the teams becomes the first.
	in.post(`{"spend": "1000.000000000001", "team_id": "team-1", "model": "model-1"}`)
	b.shows(".facts", "Spend $1,091.550000000001 Requests 26")
	b.shows(".legend", "model-1 $1,016.050000000001")
	b.shows(".top-list li:first-child", "team-1")
	b.shows(".chart tbody tr:last-child", "0000001")
	kept := js[string](b, `JSON.stringify({focus: document.activeElement === was.link, text: was.link.innerText, scroll: was.scrolled > 0 && scrollY === was.scrolled,
		selected: getSelection().toString(), chart: document.querySelector(".plot canvas") === was.canvas, open: document.querySelector("details").open})`)
	if want := `{"focus":true,"text":"team-1","scroll":true,"selected":"Spend by day and model, UTC","chart":true,"open":true}`; kept != want {
		t.Errorf("a refresh leaves %s of what the reader had", kept)
	}

	// Nobody looks: nothing is asked for.
	js[chromedp.Void](b, `Object.defineProperty(document, "hidden", {value: true, configurable: true}); document.dispatchEvent(new Event("visibilitychange")); 0`)
	b.until(reports + " % 8 === 0") // of each part of the view; a refresh that has begun is over
	asked := js[int](b, reports)
	in.post(`{"spend": "0.45", "team_id": "team-1", "model": "model-1"}`)
	b.hears(4)
	if n := js[int](b, reports); n != asked {
		t.Errorf("a page that nobody sees asks for %d reports", n-asked)
	}
	js[chromedp.Void](b, `delete document.hidden; document.dispatchEvent(new Event("visibilitychange")); 0`)
	b.shows(".facts", "Spend $1,092.000000000001 Requests 27")

	// Days that are over stay as they are.
	past := time.Now().UTC().AddDate(0, 0, -2).Format(time.DateOnly)
	b.visit("#/spend?range=custom&tz=UTC&from=" + past + "&to=" + past)
	b.shows(".hint", "These days are over")
	asked = js[int](b, reports)
	in.post(`{"spend": "1", "team_id": "team-1", "model": "model-1"}`)
	b.hears(4)
	if n := js[int](b, reports); n != asked {
		t.Errorf("days that are over are asked for %d times", n-asked)
	}

	b.visit("#/entity/team/team-1")
	b.shows(".facts", "Spent so far $1,") // and it stays current, too
	in.post(`{"spend": "9000", "team_id": "team-1", "model": "model-1"}`)
	b.shows(".facts", "Spent so far $10,")
	b.quiet()
}
