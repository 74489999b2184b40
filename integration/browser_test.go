package integration

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

//go:embed testdata/axe/axe.min.js
var axe string

// browser is a Chromium of its own with one open page. What goes wrong inside is gathered as
// complaints.
type browser struct {
	t   testing.TB
	ctx context.Context

	mu         sync.Mutex
	complaints []string // errors of scripts, of the console and of the content policy
}

// newBrowser starts Chromium. It fails where there is none: .ci/need chromium installs it or names
// the line. SPENDFLUSH_TEST_BROWSER=off, which is said in the output, turns the browser tests off.
func newBrowser(t testing.TB, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	if os.Getenv("SPENDFLUSH_TEST_BROWSER") == "off" {
		t.Skip("turned off by SPENDFLUSH_TEST_BROWSER=off")
	}
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("there is no Chromium on PATH; .ci/need chromium installs it or says how; SPENDFLUSH_TEST_BROWSER=off leaves these tests out")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(patience), chromedp.Flag("disable-dev-shm-usage", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	options = append(options, more...)
	allocator, endAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(allocator)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil { // closes Chromium and waits for its process
			t.Errorf("end Chromium: %v", err)
		}
		end()
		endAllocator()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	b.do("listen", command(log.Enable, cdp.Empty{}), command(runtime.Enable, cdp.Empty{}))
	return b
}

// command is an action out of a command of the protocol.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func (b *browser) listen(event any) {
	text := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			for _, arg := range e.Args {
				text += string(arg.Value) + arg.Description
			}
		}
	case *log.EventEntryAdded: // the network's and the content policy's errors come here
		if e.Entry.Level == log.EntryLevelError {
			text = e.Entry.Text + " " + e.Entry.URL
		}
	}
	if text != "" {
		b.mu.Lock()
		b.complaints = append(b.complaints, text)
		b.mu.Unlock()
	}
}

// quiet fails if anything was complained about since the last call, but for what holds one of the
// texts.
func (b *browser) quiet(but ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
next:
	for _, c := range b.complaints {
		for _, allowed := range but {
			if strings.Contains(c, allowed) {
				continue next
			}
		}
		b.t.Errorf("the browser complains: %s", c)
	}
	b.complaints = nil
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	perform(b, what, chromedp.Steps(steps...))
}

// perform runs an action and returns its value. That it fails or takes longer than patience is
// fatal.
func perform[T any](b *browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		seen, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		b.t.Fatalf("%s: %v; the page shows:\n%s", what, err, seen)
	}
	return value
}

// js evaluates an expression; a promise is waited for.
func js[T any](b *browser, expression string) T {
	b.t.Helper()
	return perform(b, fmt.Sprintf("%.200s", expression), chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// until waits for an expression to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	perform(b, "until "+expression, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience), chromedp.WithPollingInterval(50*time.Millisecond)))
}

// shows waits for a text in the elements of a selector.
func (b *browser) shows(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`[...document.querySelectorAll(%s)].some(e => e.innerText.replace(/\s+/g, " ").includes(%s))`, quoted(selector), quoted(text)))
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeEnabled))
}

func (b *browser) write(selector, text string) {
	b.t.Helper()
	b.do("write into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// visit goes to a view of the page and waits until all of it is there.
func (b *browser) visit(hash string) {
	b.t.Helper()
	js[chromedp.Void](b, "location.hash = "+quoted(hash))
	b.settled()
}

func (b *browser) settled() {
	b.t.Helper()
	b.until(`document.querySelector("main h1") && !document.querySelector(".loading, [aria-busy]")`)
}

// blocks lets nothing through to these addresses.
func (b *browser) blocks(urls ...string) {
	b.t.Helper()
	patterns := []*network.BlockPattern{}
	for _, u := range urls {
		patterns = append(patterns, &network.BlockPattern{URLPattern: u, Block: true})
	}
	b.do("block", command(network.Enable, network.EnableParams{}), command(network.SetBlockedURLs, network.SetBlockedURLsParams{URLPatterns: patterns}))
}

func quoted(text string) string {
	q, _ := json.Marshal(text)
	return string(q)
}

// resize makes the window that large.
func (b *browser) resize(width, height int64) {
	b.t.Helper()
	b.do("resize", chromedp.EmulateViewport(width, height))
}

// theme asks for light or dark as the system does.
func (b *browser) theme(name string) {
	b.t.Helper()
	b.do("theme", command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}}))
}

// accessible runs axe over the page as it is.
func (b *browser) accessible(what string) {
	b.t.Helper()
	if !js[bool](b, `"axe" in window`) {
		js[chromedp.Void](b, axe+"; 0")
	}
	violations := js[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.flatMap(v =>
		v.nodes.map(n => v.id + ": " + n.target.join(" ") + " " + (n.failureSummary ?? "").replace(/\s+/g, " "))))`)
	for _, v := range violations {
		b.t.Errorf("%s: not accessible: %.400s", what, v)
	}
}

// narrow checks that a phone needn't scroll sideways.
func (b *browser) narrow(what string) {
	b.t.Helper()
	wide := js[[]string](b, `document.documentElement.scrollWidth <= 360 ? [] : [document.documentElement.scrollWidth + " px", ...[...document.querySelectorAll("main *")]
		.filter(e => e.getBoundingClientRect().right > 361).slice(0, 3).map(e => e.outerHTML.slice(0, 120))]`)
	if len(wide) > 0 {
		b.t.Errorf("%s: wider than a phone of 360 px: %s", what, wide)
	}
}
