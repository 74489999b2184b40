//go:build pictures

package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/spendflush/spendflush/spend"
)

// The pictures of the README: "make screenshots" runs this. First all is well and three instances
// are busy; then things go wrong.
func TestPicturesOfThePage(t *testing.T) {
	b := newBrowser(t)
	s := newStack(t)
	all := s.startAll(3, "SPENDFLUSH_GAP_GRACE=1s")
	house := &house{random: rand.New(rand.NewPCG(1, 2))}
	house.furnish(all[0])
	if status, report := all[1].get("/v1/audit"); status != 200 || !strings.Contains(report, `"ok":true`) {
		t.Fatalf("the audit says %d %s", status, report)
	}
	dir := os.Getenv("SPENDFLUSH_PICTURES")
	if dir == "" {
		dir = t.TempDir()
	}
	b.theme("light")
	b.resize(1200, 760)
	b.do("open", chromedp.Navigate(all[0].url+"/"))
	b.write("#token", token+kb.Enter)
	b.shows("#live", "Live")
	b.picture(dir, "spend", "#/spend?range=30d&by=day&group=model", "dark", 1200, 1060)
	b.picture(dir, "entity", "#/entity/team/search?range=7d&by=hour&group=user_id", "light", 1200, 1000)
	b.visit("#/")
	quit := house.busy(all)
	b.until(`document.querySelectorAll("table")[1]?.rows.length > 12 && document.querySelector(".path li:nth-child(3) .big").innerText.startsWith("pod-")`)
	b.picture(dir, "pipeline", "#/", "light", 1200, 1000)
	b.picture(dir, "phone", "#/", "dark", 360, 720)
	quit()
	s.harm(all[0])
	b.shows("#trouble-count", "3")
	b.picture(dir, "trouble", "#/trouble", "light", 1200, 840)
}

// picture writes a screenshot of a view.
func (b *browser) picture(dir, name, view, theme string, width, height int64) {
	b.t.Helper()
	b.theme(theme)
	b.resize(width, height)
	b.visit(view)
	b.until(`new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`)
	png := perform(b, "screenshot", chromedp.CaptureScreenshot())
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// house is a company whose gateway is busy by day, and quiet at night and at weekends.
type house struct{ random *rand.Rand }

// update is what one request cost.
func (h *house) update(at time.Time) string {
	models := []struct {
		name, provider string
		price          float64 // of a million tokens
	}{
		{"claude-sonnet-4-5", "anthropic", 6}, {"gpt-5", "openai", 5}, {"gpt-5-mini", "openai", 1}, {"gemini-2.5-pro", "vertex_ai", 4},
		{"claude-haiku-4-5", "anthropic", 2}, {"mistral-large", "mistral", 3}, {"llama-3.3-70b", "bedrock", 1}, {"text-embedding-3-large", "openai", 1},
	}
	teams := []string{"search", "support", "coding", "research", "billing", "translation"}
	users := []string{"ada", "grace", "edsger", "barbara", "donald", "leslie", "tony", "frances", "ken", "radia", "alan", "margaret"}
	less := func(n int) int { return min(h.random.IntN(n), h.random.IntN(n)) } // the first are chosen more often
	m, team, user := models[less(len(models))], less(len(teams)), less(len(users))
	prompt, completion := 2_000+h.random.IntN(60_000), 50+h.random.IntN(3_000)
	return fmt.Sprintf(`{"spend": "%.6f", "team_id": %q, "user_id": %q, "api_key": "sk-%s-%d", "tags": [%q], "model": %q, "custom_llm_provider": %q,
		"endpoint": "/v1/chat/completions", "prompt_tokens": %d, "completion_tokens": %d, "cache_read_input_tokens": %d, "status": %q, "time": %q}`,
		m.price*float64(prompt+5*completion)/1e6, teams[team], users[(user+2*team)%len(users)], teams[team], less(3)+1,
		[]string{"production", "evaluation", "batch"}[less(3)], m.name, m.provider, prompt, completion, prompt/3,
		[]string{"success", "success", "failure"}[less(3)], at.UTC().Format(time.RFC3339))
}

// furnish books a month.
func (h *house) furnish(in *instance) {
	in.t.Helper()
	var updates []string
	for hour := range 30 * 24 {
		at := time.Now().Add(-time.Duration(hour) * time.Hour)
		requests := 12 + 15*max(0, 6-abs(at.UTC().Hour()-13))
		if day := at.UTC().Weekday(); day == time.Saturday || day == time.Sunday {
			requests /= 3
		}
		for range requests {
			updates = append(updates, h.update(at))
		}
	}
	for part := range slices.Chunk(updates, 10_000) {
		in.post("[" + strings.Join(part, ",") + "]")
	}
}

func abs(n int) int { return max(n, -n) }

// busy sends traffic to all instances until quit is called.
func (h *house) busy(all []*instance) (quit func()) {
	end := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for i := 0; ; i++ {
			in := all[i%len(all)]
			updates := make([]string, 1+h.random.IntN(12))
			for j := range updates {
				updates[j] = h.update(time.Now())
			}
			status, answer, err := in.stack.do("POST", in.url+"/v1/updates", "application/json", strings.NewReader("["+strings.Join(updates, ",")+"]"))
			if err != nil || status != 202 {
				in.t.Errorf("%d %s %v", status, answer, err)
			}
			select {
			case <-end:
				return
			case <-time.After(40 * time.Millisecond):
			}
		}
	})
	return func() { close(end); work.Wait() }
}

// harm puts a row and a damaged batch into quarantine, and lets a batch get lost.
func (s *stack) harm(in *instance) {
	s.t.Helper()
	s.brimful()
	in.post(strings.ReplaceAll(onTop, "crew", "search"))
	s.enqueue(spend.NewProducerID(time.Now()), 1, []byte("\x00not a batch"))
	s.lose()
	eventually(s.t, "all of it is noticed", func() string {
		if q, l := s.number("SELECT count(*) FROM spendflush.quarantine"), s.number("SELECT count(*) FROM spendflush.lost_batches"); q < 2 || l < 1 {
			return fmt.Sprintf("%d in quarantine, %d lost", q, l)
		}
		return ""
	})
}
