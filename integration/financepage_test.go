package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// reader is a browser before an instance that asks nobody for a token.
func reader(t *testing.T) (*browser, *instance) {
	t.Helper()
	b := newBrowser(t)
	in := newStack(t).start("only", "SPENDFLUSH_FLUSH_INTERVAL=50ms", "SPENDFLUSH_TOKENS=")
	b.theme("light")
	b.resize(1280, 900)
	b.do("open", chromedp.Navigate(in.url+"/"))
	b.shows("#live", "Live")
	return b, in
}

// monthOf is how the page writes a month.
func monthOf(t time.Time) string { return strings.Replace(t.Format("Jan 2006"), "Sep ", "Sept ", 1) }

// teams are updates of so many teams, the first of them the largest.
func teams(n int) string {
	var updates []string
	for i := range n {
		updates = append(updates, fmt.Sprintf(`{"spend": "%d.005", "team_id": "Team Number %03d", "user_id": "ada", "model": "m"}`, n-i, i))
	}
	return "[" + strings.Join(updates, ",") + "]"
}

func TestPageShowsHowToBookWhereNothingWasEverBooked(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := newStack(t)
	in := s.start("only", "SPENDFLUSH_FLUSH_INTERVAL=50ms")
	b.theme("light")
	b.do("open", chromedp.Navigate(in.url+"/"))
	b.write("#token", token+kb.Enter)
	for _, view := range []string{"#/", "#/spend"} {
		b.visit(view)
		b.shows(".begin", "Nothing was ever booked")
		b.accessible("nothing booked, " + view)
	}
	line := js[string](b, `document.querySelector(".begin code").textContent`)
	curl := exec.CommandContext(t.Context(), "sh", "-c", line)
	curl.Env = append(os.Environ(), "TOKEN="+token)
	if answer, err := curl.CombinedOutput(); err != nil || !strings.Contains(string(answer), `"reached":"committed"`) {
		t.Fatalf("%s: %v, %s", line, err, answer)
	}
	b.shows(".facts", "Spend $0.0042 Requests 1")
	b.until(`!document.querySelector(".begin")`)
	b.quiet()
}

func TestPageShowsMonthsAndTheDaysOfAnyTimeZone(t *testing.T) {
	t.Parallel()
	oneDay()
	b, in := reader(t)
	now := time.Now().UTC()
	first := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	in.post(fmt.Sprintf(`[{"spend": "1", "team_id": "t", "model": "m"}, {"spend": "2.5", "team_id": "t", "model": "m", "time": "%s"}]`, first.Add(-time.Hour).Format(time.RFC3339)))
	choose := func(name, value string) {
		t.Helper()
		js[chromedp.Void](b, fmt.Sprintf(`{ const e = document.querySelector("[name=%s]"); e.value = %q; e.dispatchEvent(new Event("change")); } 0`, name, value))
		b.settled()
	}
	dates := func() string {
		return js[string](b, `document.querySelector("[name=from]").value + " " + document.querySelector("[name=to]").value`)
	}
	b.visit("#/spend?tz=UTC")
	choose("range", "month")
	b.shows(".facts", "Spend $1.00 Requests 1")
	if got, want := dates(), first.Format(time.DateOnly)+" "+now.Format(time.DateOnly); got != want {
		t.Errorf("this month is %s, want %s", got, want)
	}
	choose("range", "last-month")
	b.shows(".facts", "Spend $2.50 Requests 1")
	if got, want := dates(), first.AddDate(0, -1, 0).Format(time.DateOnly)+" "+first.AddDate(0, 0, -1).Format(time.DateOnly); got != want {
		t.Errorf("the last month is %s, want %s", got, want)
	}

	choose("range", "90d")
	choose("by", "month")
	b.click(".chart summary")
	b.shows(".chart tbody tr:last-child", monthOf(first)+" $1.00")
	b.shows(".chart tbody tr:nth-last-child(2)", monthOf(first.AddDate(0, -1, 0))+" $2.50")
	csv := js[string](b, `fetch(document.querySelector("a[download]").href).then(async (r) => r.headers.get("Content-Disposition") + "\n" + await r.text())`)
	if !strings.Contains(csv, "month,model,spend") || !strings.Contains(csv, first.Format("2006-01")+",m,1,1,") || !strings.Contains(csv, `"spendflush-all-by-month-model-from-`) {
		t.Errorf("the CSV is %q", csv)
	}
	csv = js[string](b, `fetch(document.querySelectorAll("a[download]")[1].href).then(async (r) => [...new Uint8Array(await r.arrayBuffer())].map((c) => String.fromCharCode(c)).join(""))`)
	if !strings.HasPrefix(csv, "\u00ef\u00bb\u00bfmodel,spend,") || !strings.Contains(csv, "\r\nm,3.5,2,") {
		t.Errorf("the totals are %q", csv)
	}

	b.chooseZones()
	b.quiet()
}

func (b *browser) chooseZones() {
	b.t.Helper()
	for _, c := range []struct{ typed, want, says string }{
		{"asia/kolkata", "Asia/Kolkata", "up to 30 minutes late"},
		{"Asia/Kathmandu", "Asia/Kathmandu", "up to 45 minutes late"},
		{"america/st johns", "America/St_Johns", "up to 30 minutes late"},
		{"europe/berlin", "Europe/Berlin", ""},
	} {
		b.write("[name=tz]", c.typed+kb.Enter) // what was there is selected
		b.until(fmt.Sprintf(`new URLSearchParams(location.hash.split("?")[1]).get("tz") === %q`, c.want))
		b.settled()
		if c.says != "" {
			b.shows(".shift", c.says)
		} else {
			b.until(`!document.querySelector(".shift")`)
		}
		b.shows("figcaption", c.want)
		if b.query("range") != "90d" {
			b.t.Errorf("the choice of a zone changes the dates: %s", js[string](b, "location.hash"))
		}
	}
	before := js[string](b, "location.hash")
	b.write("[name=tz]", "Mars/Olympus"+kb.Enter)
	b.shows("#dates-problem", "No time zone is called Mars/Olympus")
	b.accessible("a zone that there isn't")
	if after := js[string](b, "location.hash"); after != before {
		b.t.Errorf("the address is %s", after)
	}
	if n := js[int](b, `document.querySelectorAll("#zones option").length`); n < 590 {
		b.t.Errorf("only %d zones can be chosen", n)
	}
}

func TestPageTellsTheHoursOfALongDayApart(t *testing.T) {
	t.Parallel()
	b, _ := reader(t)
	for _, c := range []struct{ zone, from, to, want string }{
		{"Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "25 Oct, 01:00|25 Oct, 02:00 GMT+2|25 Oct, 02:00 GMT+1|25 Oct, 03:00"},
		{"America/New_York", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z", "1 Nov, 00:00|1 Nov, 01:00 GMT-4|1 Nov, 01:00 GMT-5|1 Nov, 02:00"},
	} {
		labels := js[[]string](b, fmt.Sprintf(`import("/assets/scope.js").then((m) => m.slotsOf({by: "hour", tz: %q}, {from: %q, to: %q}).map((s) => s.label))`, c.zone, c.from, c.to))
		if all := strings.Join(labels, "|"); len(labels) != 25 || !strings.Contains(all, c.want) {
			t.Errorf("%s: %s", c.zone, all)
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(labels))); len(unique) != len(labels) {
			t.Errorf("%s: two hours have one name: %q", c.zone, labels)
		}
	}
}

func TestPageRoundsAmountsHalfAwayFromZeroAndShowsAllDigitsOnDemand(t *testing.T) {
	t.Parallel()
	b, in := reader(t)
	want := map[string]string{
		"1.005": "1.01", "-1.005": "-1.01", "1.004999999999": "1", "2.994999999999": "2.99", "2.995": "3", "0.005": "0.005", "0.009951": "0.01", "0.00994": "0.0099", "0.01": "0.01",
		"0.0000123456": "0.000012", "-0.0000125": "-0.000013", "0.000000000001": "0.000000000001", "0": "0", "99999999999999999999.995": "100000000000000000000", "1234.5": "1234.5",
	}
	var texts []string
	for text := range want {
		texts = append(texts, text)
	}
	list, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range js[[]string](b, fmt.Sprintf(`import("/assets/format.js").then((m) => %s.map(m.rounded))`, list)) {
		if got != want[texts[i]] {
			t.Errorf("%s is rounded to %s, want %s", texts[i], got, want[texts[i]])
		}
	}

	in.post(`[{"spend": "1234.565000000001", "team_id": "t", "model": "m"}, {"spend": "0.01", "team_id": "u", "model": "m"}]`)
	b.visit("#/spend?range=7d&tz=UTC")
	b.shows(".facts", "Spend $1,234.58 Requests 2")
	b.shows(".rounding", "halves away from zero")
	if title := js[string](b, `document.querySelector(".facts .amount").title`); title != "$1,234.575000000001" {
		t.Errorf("the exact amount is said to be %s", title)
	}
	js[chromedp.Void](b, `{ const e = document.querySelector("[name=amounts]"); e.value = "exact"; e.dispatchEvent(new Event("change")); } 0`)
	b.shows(".facts", "Spend $1,234.575000000001 Requests 2")
	b.shows(".top-list", "t $1,234.565000000001")
	b.visit("#/list/team_id?range=7d&tz=UTC&amounts=exact")
	b.shows("table", "t $1,234.565000000001")
	b.quiet()
}

// drawn has all texts that charts draw from now on, with where they end and how wide their canvas
// is. It must be called before they are drawn.
func (b *browser) drawn() {
	b.t.Helper()
	js[chromedp.Void](b, `window.drawn = []; { const draw = CanvasRenderingContext2D.prototype.fillText;
		CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
			const wide = this.measureText(text).width, at = this.textAlign;
			const left = x - (at === "center" ? wide / 2 : at === "right" || at === "end" ? wide : 0);
			drawn.push({ text, left, right: left + wide, room: this.canvas.width, color: this.fillStyle });
			return draw.apply(this, arguments);
		}; } 0`)
}

func TestPageDrawsAxesWithWholeLabelsAndAmountsAsElsewhere(t *testing.T) {
	t.Parallel()
	b, in := reader(t)
	in.post(`[{"spend": "-40", "team_id": "t", "model": "refunds"}, {"spend": "20", "team_id": "t", "model": "gpt"}]`)
	b.drawn()
	for _, width := range []int64{1280, 1000, 520, 360} {
		b.resize(width, 900)
		for _, query := range []string{"range=7d&by=day", "range=7d&by=hour", "range=30d&by=day", "range=365d&by=month", "range=1d", "range=last-month&by=day", "range=custom&from=2026-01-01&to=2026-01-03"} {
			js[chromedp.Void](b, `drawn.length = 0; 0`)
			b.visit("#/spend?tz=UTC&" + query)
			for _, d := range js[[]struct {
				Text              string
				Left, Right, Room float64
			}](b, "drawn") {
				if d.Left < 0 || d.Right > d.Room {
					t.Errorf("%d px, %s: %q goes from %.0f to %.0f of %.0f", width, query, d.Text, d.Left, d.Right, d.Room)
				}
			}
		}
	}
	b.resize(1280, 900)
	js[chromedp.Void](b, `drawn.length = 0; 0`)
	b.visit("#/spend?tz=UTC&range=7d&by=day&group=model")
	b.shows(".legend", "refunds −$40.00")
	texts := js[[]string](b, "drawn.map((d) => d.text)")
	if !slices.ContainsFunc(texts, func(text string) bool { return strings.HasPrefix(text, "−$") }) || slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, "$-") || strings.HasPrefix(text, "-") }) {
		t.Errorf("the axes have %q", texts)
	}
	b.quiet()
}

func TestPageListsAllOfAKindPageByPageAndFindsWithinNames(t *testing.T) {
	t.Parallel()
	b, in := reader(t)
	in.post(teams(120))
	b.visit("#/spend?range=7d&tz=UTC")
	b.click(`a.all[data-group="team_id"]`)
	b.shows("h1", "All teams")
	b.settled()
	b.shows(".sums", "120 teams: $7,260.60 in 120 requests")
	rows := func() int { return js[int](b, `document.querySelectorAll("main tbody tr").length`) }
	if n := rows(); n != 50 {
		t.Errorf("the first page has %d rows", n)
	}
	b.accessible("a list")
	b.click(".pages button:last-child")
	b.shows(".pages", "51 to 100 of 120")
	b.shows("tbody tr:first-child", "Team Number 050 $70.01")
	b.click(".pages button:last-child")
	b.shows(".pages", "101 to 120 of 120")
	b.click(".pages button:first-child")
	b.shows(".pages", "51 to 100 of 120")
	js[chromedp.Void](b, `dispatchEvent(new Event("beforeprint")); 0`) // on paper there are all
	if n := rows(); n != 120 {
		t.Errorf("%d rows are printed", n)
	}
	js[chromedp.Void](b, `dispatchEvent(new Event("afterprint")); 0`)
	b.shows(".pages", "51 to 100 of 120")
	b.write("#within", "NUMBER 11")
	b.shows(".sums", "10 of 120 teams: $55.05 in 10 requests")
	csv := js[string](b, `fetch(document.querySelector("a[download]").href).then((r) => r.text())`)
	if lines := strings.Split(csv, "\r\n"); len(lines) != 122 || !strings.HasPrefix(lines[1], "Team Number 000,120.005,1,") {
		t.Errorf("the CSV has %d lines, %q", len(lines), lines[:2])
	}

	b.visit("#/entities/team")
	b.shows("tbody tr:first-child", "Team Number 000")
	b.click(".pages button:last-child")
	b.shows("tbody tr:first-child", "Team Number 050")
	b.click(".pages button:last-child")
	b.shows("tbody tr:first-child", "Team Number 100")
	b.until(`document.querySelector(".pages button:last-child").disabled`)
	b.click(".pages button:first-child")
	b.shows("tbody tr:first-child", "Team Number 050")
	b.write("#within", "umber 11")
	b.until(`document.querySelectorAll("main tbody tr").length === 10 && document.activeElement.id === "within"`)
	b.accessible("a search")
	b.visit("#/entities/team_member?q=ADA")
	b.shows("tbody tr:first-child", "ada of Team Number 000")

	b.visit("#/spend")
	b.write("#search", "NUMBER 119")
	b.shows("#found li", "Team Number 119")
	b.write("#search", kb.Enter)
	b.shows("h1", "Team Team Number 119")
	b.settled()
	js[chromedp.Void](b, `document.querySelector('a.all[data-group="model"]').click()`)
	b.shows("h1", "All models of Team Team Number 119")
	b.settled()
	b.shows(".sums", "1 model: $1.01 in 1 request")
	b.quiet()
}

func TestPagePrintsTheReportAlone(t *testing.T) {
	t.Parallel()
	b, in := reader(t)
	in.post(teams(120))
	b.theme("dark")
	b.drawn()
	b.visit("#/spend?range=month&by=day&tz=UTC")
	js[chromedp.Void](b, `drawn.length = 0; 0`)
	b.do("print media", command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print",
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}))
	b.until(`drawn.length > 0 && drawn.every((d) => d.color === "#444444")`) // not light on white
	seen := js[[]string](b, `[...document.querySelectorAll(".top, .controls, .search, button, a.button, a.all, summary, .says-chart, .skip")].filter((e) => e.checkVisibility()).map((e) => e.outerHTML.slice(0, 80))`)
	if len(seen) > 0 {
		t.Errorf("controls are printed: %q", seen)
	}
	b.shows(".printed", monthOf(time.Now().UTC())+", UTC, spend by day.")
	b.until(`[".facts", ".plot canvas", ".legend", ".top-list", ".printed"].every((s) => document.querySelector(s).checkVisibility())`)
	b.until(`getComputedStyle(document.body).backgroundColor === "rgb(255, 255, 255)"`)
	if n := b.printed(); n > 2 {
		t.Errorf("the report has %d pages", n)
	}
	b.visit("#/list/team_id?range=month&tz=UTC")
	if n := b.printed(); n < 2 || n > 5 {
		t.Errorf("120 teams have %d pages", n)
	}
	b.quiet()
}

// printed prints the view and returns how many pages it has.
func (b *browser) printed() int {
	b.t.Helper()
	pages := 0
	b.do("print", chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		printed, err := cdp.Call(ctx, target, page.PrintToPDF, page.PrintToPDFParams{})
		if err == nil {
			pages = len(regexp.MustCompile(`/Type\s*/Page\b`).FindAll(printed.Data, -1))
		}
		return err
	}))
	return pages
}
