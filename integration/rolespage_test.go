package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func TestPageShowsWhatATokenMayAndSaysWhyNotTheRest(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := newStack(t)
	path := filepath.Join(t.TempDir(), "tokens")
	replaceFile(t, path, tokensFile+token+"\n")
	in := s.start("only", "SPENDFLUSH_FLUSH_INTERVAL=50ms", "SPENDFLUSH_GAP_GRACE=1s", "SPENDFLUSH_TOKENS=", "SPENDFLUSH_TOKENS_FILE="+path)
	s.seed(in)
	b.theme("light")
	b.resize(1280, 900)

	// Who may only write has nothing to see.
	b.do("open", chromedp.Navigate(in.url+"/"))
	b.shows("h1", "Sign in")
	b.write("#token", gatewayToken+kb.Enter)
	b.shows("h1", "This token may not read")
	b.shows("#main", "This needs the role read; the token gateway has: write.")
	b.until(`document.getElementById("nav").hidden`)
	b.accessible("a token that may not read")
	b.click("#sign-out")

	// Who may only read sees the spend first, and of the trouble all but what changes something.
	b.shows("h1", "Sign in")
	b.write("#token", dashboardToken+kb.Enter)
	b.shows("h1", "Spend")
	b.until(`location.hash === "#/spend"`)
	b.shows("#foot", "Signed in as dashboards: read.")
	b.visit("#/trouble")
	b.shows("table", "Entries: open")
	b.shows("#no-audit", "This needs the role operate; the token dashboards has: read.")
	b.until(`document.getElementById("audit").disabled && document.getElementById("audit").getAttribute("aria-describedby") === "no-audit"`)
	b.until(`!document.querySelector('[aria-label^="Apply entry"], [aria-label^="Drop entry"]')`)
	b.accessible("trouble of a reader")
	b.click(`[aria-label^="Show entry"]`)
	b.shows("dialog", "To apply or drop: This needs the role operate")
	b.until(`![...document.querySelectorAll("dialog button")].some((e) => /Apply|Drop/.test(e.textContent))`)
	b.accessible("an entry of a reader")
	b.visit("#/")
	b.shows("h1", "Pipeline")
	b.quiet()

	// A token that gets another role has it at once; one that is taken out has to sign in again.
	replaceFile(t, path, strings.Replace(tokensFile, "dashboards read ", "dashboards read,operate ", 1)+token+"\n")
	in.loggedTimes("the tokens were read again", 1)
	b.do("open again", chromedp.Navigate(in.url+"/#/trouble"), chromedp.Reload())
	b.shows("table", "Entries: open")
	b.until(`!document.getElementById("audit").disabled && document.querySelector('[aria-label^="Apply entry"]') !== null`)
	replaceFile(t, path, token+"\n")
	in.loggedTimes("the tokens were read again", 2)
	b.shows("h1", "Sign in")
	b.quiet("401")
}
