package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// update is an update as clients send it.
type update struct {
	Spend          json.RawMessage `json:"spend"`
	Time           string          `json:"time"`
	Status         string          `json:"status,omitempty"`
	APIKey         string          `json:"api_key,omitempty"`
	UserID         string          `json:"user_id,omitempty"`
	EndUserID      string          `json:"end_user_id,omitempty"`
	TeamID         string          `json:"team_id,omitempty"`
	OrganizationID string          `json:"organization_id,omitempty"`
	AgentID        string          `json:"agent_id,omitempty"`
	Tags           []string        `json:"tags,omitempty"`
	Model          string          `json:"model,omitempty"`
	ModelGroup     string          `json:"model_group,omitempty"`
	Provider       string          `json:"custom_llm_provider,omitempty"`
	Tool           string          `json:"mcp_namespaced_tool_name,omitempty"`
	Endpoint       string          `json:"endpoint,omitempty"`
	Prompt         int64           `json:"prompt_tokens,omitempty"`
	Completion     int64           `json:"completion_tokens,omitempty"`
	CacheRead      int64           `json:"cache_read_input_tokens,omitempty"`
	CacheCreation  int64           `json:"cache_creation_input_tokens,omitempty"`

	amount spend.Amount // what Spend means
	at     time.Time    // what Time means
}

func (u *update) sums() sums {
	s := sums{
		Spend: u.amount, Requests: 1, Prompt: u.Prompt, Completion: u.Completion,
		CacheReadInput: u.CacheRead, CacheCreationInput: u.CacheCreation,
	}
	if u.Status == "failure" {
		s.Failed = 1
	} else {
		s.Successful = 1
	}
	return s
}

func (u *update) ids() ids {
	return ids{u.APIKey, u.UserID, u.EndUserID, u.TeamID, u.OrganizationID, u.AgentID}
}

// entities returns whom the update counts on. Tags are those of the update, each once.
func (u *update) entities(tags []string) (all []entity) {
	for _, e := range []entity{
		{"api_key", u.APIKey, ""}, {"user", u.UserID, ""}, {"end_user", u.EndUserID, ""}, {"team", u.TeamID, ""},
		{"organization", u.OrganizationID, ""}, {"agent", u.AgentID, ""},
	} {
		if e.ID != "" {
			all = append(all, e)
		}
	}
	if u.TeamID != "" && u.UserID != "" {
		all = append(all, entity{"team_member", u.UserID, u.TeamID})
	}
	for _, tag := range tags {
		all = append(all, entity{"tag", tag, ""})
	}
	return all
}

// mix makes updates. Its ids are such that joining two with a separator, quoting badly or folding
// letters would make two of them one.
type mix struct {
	rng     *rand.Rand
	prefix  string // of all ids; the updates of two prefixes have no entity in common
	credits bool   // some spend is negative
	base    time.Time

	combinations []update // used so far
}

func newMix(seed uint64) *mix {
	return &mix{rng: rand.New(rand.NewPCG(seed, 1)), base: time.Now()}
}

func (m *mix) id(kind string, n int, chance float64) string {
	if m.rng.Float64() >= chance {
		return ""
	}
	forms := [...]string{"%s-%d", "%s::%d", "%s_%d", "%s:%d:", "%s'%d\"", "%s %d,", "Ñandú %s %d", `{%s\%d}`}
	return m.prefix + fmt.Sprintf(forms[m.rng.IntN(len(forms))], kind, m.rng.IntN(n))
}

func (m *mix) pick(of ...string) string { return of[m.rng.IntN(len(of))] }

// next makes an update. Most are of combinations that were there before, as requests are.
func (m *mix) next() update {
	const most = 400
	var u update
	if known := len(m.combinations); known > 0 && (known == most || m.rng.IntN(3) > 0) {
		u = m.combinations[m.rng.IntN(known)]
	} else {
		u = m.combination()
		m.combinations = append(m.combinations, u)
	}
	u.Prompt, u.Completion = m.rng.Int64N(5000), m.rng.Int64N(2000)
	u.CacheRead, u.CacheCreation = m.rng.Int64N(3)*128, m.rng.Int64N(2)*64
	if m.rng.IntN(10) == 0 {
		u.Status = m.pick("failure", "success")
	}
	zone := time.FixedZone("", m.rng.IntN(25)*1800-6*3600)
	u.at = m.base.Add(-time.Duration(m.rng.IntN(4))*7*time.Hour - time.Duration(m.rng.IntN(3600))*time.Second).Truncate(time.Second)
	u.Time = u.at.In(zone).Format(time.RFC3339)
	m.spend(&u)
	return u
}

// combination chooses ids, tags and dimensions.
func (m *mix) combination() update {
	u := update{
		APIKey: m.prefix + fmt.Sprintf("key-%d", m.rng.IntN(60)), UserID: m.id("user", 8, 0.8), EndUserID: m.id("end", 10, 0.4),
		TeamID: m.id("team", 3, 0.8), OrganizationID: m.id("org", 1, 0.5), AgentID: m.id("agent", 1, 0.2),
		Model: m.pick("gpt-5", "claude-opus", "mistral-large", ""), ModelGroup: m.pick("big", "", ""),
		Provider: m.pick("openai", "anthropic"), Tool: m.pick("", "", "", "search-web"), Endpoint: m.pick("/chat", "/embeddings"),
	}
	for range m.rng.IntN(4) {
		u.Tags = append(u.Tags, m.id("tag", 2, 1)) // the same one twice now and then
	}
	return u
}

// spend chooses an amount and one of the ways to write it.
func (m *mix) spend(u *update) {
	switch m.rng.IntN(20) {
	case 0: // half to even, on the way in
		u.Spend, u.amount = json.RawMessage(`0.0000000000025`), spend.Picodollars(2)
	case 1:
		u.Spend, u.amount = json.RawMessage(`"0.0000000000035"`), spend.Picodollars(4)
	case 2:
		u.Spend, u.amount = json.RawMessage(`1.5e-7`), spend.Picodollars(150_000)
	case 3:
		u.Spend, u.amount = json.RawMessage(`"999999999.999999999999"`), spend.Dollars(1_000_000_000).Sub(spend.Picodollars(1))
	default:
		u.amount = spend.Picodollars(m.rng.Int64N(8_000_000_000))
		if m.credits && m.rng.IntN(30) == 0 {
			u.amount = u.amount.Neg()
		}
		text := u.amount.String()
		if m.rng.IntN(2) == 0 {
			text = `"` + text + `"`
		}
		u.Spend = json.RawMessage(text)
	}
}

// body writes updates in one of the forms that the API takes.
func (m *mix) body(updates []update) (contentType string, body []byte, err error) {
	if len(updates) == 1 && m.rng.IntN(2) == 0 {
		body, err = json.Marshal(&updates[0])
		return "application/json", body, err
	}
	if m.rng.IntN(2) == 0 {
		body, err = json.Marshal(updates)
		return "application/json", body, err
	}
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	for i := range updates {
		err = errors.Join(err, e.Encode(&updates[i]))
	}
	return "application/x-ndjson", lines.Bytes(), err
}

// loadOptions say what clients do.
type loadOptions struct {
	clients int
	updates int           // how many all clients send, about; 0: until stop
	most    int           // updates in one request
	pace    time.Duration // from one request of a client to its next; 0: at once
	acks    []string      // what to ask for, each as often as the others
	prefix  string
	credits bool
	mayFail bool // requests may fail: their updates may be in the books or not
	no5xx   bool // not even 504 will do, which says that the stage isn't reached yet
}

// load is traffic that runs.
type load struct {
	t       testing.TB
	options loadOptions
	targets []*instance
	quit    chan struct{}
	work    sync.WaitGroup
	clients []*client
}

// client is one of those that send. Its books are read after its end.
type client struct {
	*mix
	load     *load
	sent     *book // everything
	recorded *book // what was acknowledged in whatever way
	safe     *book // what was acknowledged as queued or committed
	err      error
}

// startLoad starts clients, each of which sends to all targets in turn.
func startLoad(t testing.TB, targets []*instance, o loadOptions) *load {
	l := &load{t: t, options: o, targets: targets, quit: make(chan struct{})}
	if len(o.acks) == 0 {
		l.options.acks = []string{"accepted", "queued", "committed"}
	}
	for i := range o.clients {
		c := &client{mix: newMix(uint64(i)), load: l, sent: newBook(), recorded: newBook(), safe: newBook()}
		c.prefix, c.credits = o.prefix, o.credits
		l.clients = append(l.clients, c)
		l.work.Go(func() { c.err = c.run(i) })
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) end() {
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.work.Wait()
}

// stop ends the load, or waits for its end if it has a number of updates to send.
func (l *load) stop() (sent, recorded, safe *book) {
	l.t.Helper()
	if l.options.updates > 0 {
		l.work.Wait()
	}
	l.end()
	sent, recorded, safe = newBook(), newBook(), newBook()
	for _, c := range l.clients {
		if c.err != nil {
			l.t.Errorf("client: %v", c.err)
		}
		sent.join(c.sent)
		recorded.join(c.recorded)
		safe.join(c.safe)
	}
	return sent, recorded, safe
}

func (c *client) run(turn int) error {
	o := &c.load.options
	var ticks <-chan time.Time
	if o.pace > 0 {
		ticker := time.NewTicker(o.pace)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for quota := o.updates / o.clients; o.updates == 0 || c.sent.updates < int64(quota); turn++ {
		select {
		case <-c.load.quit:
			return nil
		default:
		}
		updates := make([]update, 1+c.rng.IntN(o.most))
		for i := range updates {
			updates[i] = c.next()
			c.sent.add(&updates[i])
		}
		target := c.load.targets[turn%len(c.load.targets)]
		if err := c.send(target, o.acks[c.rng.IntN(len(o.acks))], updates); err != nil && !o.mayFail {
			return err
		}
		if ticks != nil {
			select {
			case <-ticks:
			case <-c.load.quit:
			}
		}
	}
	return nil
}

// send sends updates in one request and notes what was acknowledged.
func (c *client) send(in *instance, ack string, updates []update) error {
	contentType, body, err := c.body(updates)
	if err != nil {
		return err
	}
	status, answer, err := in.postUpdates(ack, contentType, body)
	if err != nil {
		return fmt.Errorf("%s: %w", in.name, err)
	}
	want := http.StatusOK
	if ack == "accepted" {
		want = http.StatusAccepted
	}
	if status == http.StatusGatewayTimeout && ack != "accepted" && !c.load.options.no5xx {
		ack = "accepted" // the stage isn't reached yet, but they are recorded
	} else if status != want {
		return fmt.Errorf("%s: ack=%s: %d instead of %d: %.300s", in.name, ack, status, want, answer)
	}
	for i := range updates {
		c.recorded.add(&updates[i])
		if ack != "accepted" {
			c.safe.add(&updates[i])
		}
	}
	return nil
}

// postUpdates sends updates and asks for this acknowledgement.
func (in *instance) postUpdates(ack, contentType string, body []byte) (status int, answer string, err error) {
	return in.stack.do(http.MethodPost, in.url+"/v1/updates?ack="+ack, contentType, bytes.NewReader(body))
}
