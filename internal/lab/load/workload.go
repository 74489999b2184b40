package load

import (
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// Shape says what a Workload is like. The zero value of a field stands for its default.
type Shape struct {
	// Seed makes another sequence of the same shape.
	Seed uint64

	// Keys is the number of API keys, 1 to MaxKeys. Default: 1000. Three keys share a user, ten
	// users a team, twenty teams an organization.
	Keys int

	// Skew says how the keys are chosen. 0: they take turns. 1: at random, all alike. 3: at random,
	// the busiest hundredth of the keys having a fifth of the updates. At most 10.
	Skew int

	// Models is the number of models that each key uses at random, 1 to 8. Default: 1, so that
	// there are as many combinations as keys.
	Models int

	// Time is that of all updates. Zero: none, they count when they are booked.
	Time time.Time
}

// MaxKeys bounds Shape.Keys.
const MaxKeys = 10_000_000

// Workload is a sequence of updates without end. It is immutable, and safe for concurrent use.
type Workload struct {
	shape                    Shape
	keys, users, teams, orgs []string
	endUsers                 []string // one for every fourth key
}

var (
	models = [8]struct{ name, group, provider string }{
		{"gpt-5", "gpt", "openai"}, {"claude-opus-4", "claude", "anthropic"}, {"gemini-2.5-pro", "gemini", "vertex_ai"},
		{"gpt-5-mini", "gpt", "azure"}, {"llama-4-maverick", "llama", "bedrock"}, {"mistral-large", "mistral", "mistral"},
		{"claude-haiku-4", "claude", "bedrock"}, {"text-embedding-3-large", "embedding", "openai"},
	}
	tagSets = [][]string{{"production"}, {"production", "search"}, {"batch"}, {"evaluation", "staging"}, {"chat"}}
	agents  = [4]string{"agent-support", "agent-research", "agent-code", "agent-sales"}
)

// New returns the workload of the shape. It takes about 60 bytes a key. The error names the field
// and what is allowed.
func New(s Shape) (*Workload, error) {
	if s.Keys == 0 {
		s.Keys = 1000
	}
	if s.Models == 0 {
		s.Models = 1
	}
	switch {
	case s.Keys < 1 || s.Keys > MaxKeys:
		return nil, fmt.Errorf("workload: Keys: %d; allowed are 1 to %d", s.Keys, MaxKeys)
	case s.Skew < 0 || s.Skew > 10:
		return nil, fmt.Errorf("workload: Skew: %d; allowed are 0 to 10", s.Skew)
	case s.Models < 1 || s.Models > len(models):
		return nil, fmt.Errorf("workload: Models: %d; allowed are 1 to %d", s.Models, len(models))
	}
	w := &Workload{shape: s}
	users := (s.Keys + 2) / 3
	teams := (users + 9) / 10
	orgs := (teams + 19) / 20
	w.keys = names("sk-%016x", s.Keys, func(i int) uint64 { return mix(s.Seed ^ uint64(i)) })
	w.users = names("user-%d", users, plain)
	w.teams = names("team-%d", teams, plain)
	w.orgs = names("org-%d", orgs, plain)
	w.endUsers = names("customer-%d", (s.Keys+3)/4, plain)
	return w, nil
}

func plain(i int) uint64 { return uint64(i) }

func names(format string, n int, number func(int) uint64) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, number(i))
	}
	return all
}

// mix spreads the bits of x: the finalizer of SplitMix64, a bijection.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Shape returns the shape, with its defaults.
func (w *Workload) Shape() Shape { return w.shape }

// Update returns the update of that number. It allocates nothing. Its tags are the workload's: they
// must not be changed.
func (w *Workload) Update(number uint64) (u spend.Update) {
	w.Fill(number, &u)
	return u
}

// Fill is Update for a caller who has the room already.
func (w *Workload) Fill(number uint64, u *spend.Update) {
	random := mix(w.shape.Seed + number)
	key := w.key(number, random)
	random = mix(random)
	*u = spend.Update{Cost: spend.Cost{Time: w.shape.Time}, Series: w.series(key, int(random>>58)%w.shape.Models)}
	u.PromptTokens = 20 + int64(random&0xfff)
	if random>>12&0x3f == 0 { // one in 64
		u.Status = spend.Failure
		return // it costs nothing, though its prompt counts
	}
	u.CompletionTokens = 1 + int64(random>>18&0x3ff)
	if random>>28&3 == 0 {
		u.CacheReadInputTokens = u.PromptTokens / 2
		u.CacheCreationInputTokens = int64(random >> 30 & 0xff)
	}
	// Prices a token of a few millionths of a dollar, and an odd number of 10^-12 dollars: no digit
	// is to spare.
	u.Spend = spend.Picodollars(u.PromptTokens*2_500_003 + u.CompletionTokens*10_000_019 + int64(random>>38&0xffff))
}

// key chooses the key of the update.
func (w *Workload) key(number, random uint64) int {
	n := len(w.keys)
	switch w.shape.Skew {
	case 0:
		return int(number % uint64(n))
	case 1:
		return int(random % uint64(n))
	}
	part := float64(random>>11) / (1 << 53)
	power := part
	for range w.shape.Skew - 1 {
		power *= part
	}
	return int(power * float64(n))
}

// series is what a key's updates count on. All of it but the model follows from the key.
func (w *Workload) series(key, model int) spend.Series {
	m := &models[(key+model)%len(models)]
	user := key % len(w.users)
	team := user % len(w.teams)
	s := spend.Series{
		APIKey: w.keys[key], UserID: w.users[user], TeamID: w.teams[team], OrganizationID: w.orgs[team%len(w.orgs)],
		Model: m.name, ModelGroup: m.group, CustomLLMProvider: m.provider, Endpoint: "/v1/chat/completions",
	}
	if key%4 == 1 {
		s.EndUserID = w.endUsers[key/4]
	}
	if key%3 == 0 {
		s.Tags = tagSets[key/3%len(tagSets)]
	}
	if key%16 == 7 {
		s.AgentID = agents[key/16%len(agents)]
		s.MCPNamespacedToolName = "tickets/search"
	}
	return s
}

// Sums is what updates add up to.
type Sums struct {
	Updates  spend.Counters                  // each update once
	Entities map[spend.Entity]spend.Counters // each update once for every entity that it counts on
}

// Sums adds up count updates from the first one on.
func (w *Workload) Sums(first, count uint64) Sums {
	byKey := make([]spend.Counters, len(w.keys))
	var u spend.Update
	for number := first; number < first+count; number++ {
		w.Fill(number, &u)
		c := Counters(&u)
		byKey[w.key(number, mix(w.shape.Seed+number))].Add(&c)
	}
	s := Sums{Entities: map[spend.Entity]spend.Counters{}}
	for key := range byKey {
		c := &byKey[key]
		if *c == (spend.Counters{}) {
			continue
		}
		s.Updates.Add(c)
		series := w.series(key, 0)
		for _, e := range Entities(&series) {
			sum := s.Entities[e]
			sum.Add(c)
			s.Entities[e] = sum
		}
	}
	return s
}

// Combinations returns how many combinations of ids, tags and dimensions the workload can have.
func (w *Workload) Combinations() int { return w.shape.Keys * w.shape.Models }

// Entities returns whom the series counts on, in the order in which a service usually writes them:
// the key first. The tags must be a set.
func Entities(s *spend.Series) []spend.Entity {
	all := make([]spend.Entity, 0, 6+len(s.Tags)+1)
	add := func(t spend.EntityType, id, team string) {
		if id != "" {
			all = append(all, spend.Entity{Type: t, ID: id, TeamID: team})
		}
	}
	add(spend.APIKey, s.APIKey, "")
	add(spend.User, s.UserID, "")
	add(spend.EndUser, s.EndUserID, "")
	add(spend.Team, s.TeamID, "")
	if s.TeamID != "" {
		add(spend.TeamMember, s.UserID, s.TeamID)
	}
	add(spend.Organization, s.OrganizationID, "")
	for _, tag := range s.Tags {
		add(spend.Tag, tag, "")
	}
	add(spend.Agent, s.AgentID, "")
	return all
}
