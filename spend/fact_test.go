package spend

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAnIDOfAnUpdateAndOneOfARequestAreTwoFacts(t *testing.T) {
	ids := map[FactID]string{}
	for _, kind := range []FactKind{UpdateFact, RequestFact} {
		for _, text := range []string{"1", "11", "a", "a\x01b", strings.Repeat("a", 127), strings.Repeat("a", 128), strings.Repeat("a", 256)} {
			id := NewFactID(kind, text)
			if other, there := ids[id]; there {
				t.Errorf("%s %q and %s are one fact", kind, text, other)
			}
			ids[id] = kind.String() + " " + text
			if NewFactID(kind, text) != id {
				t.Errorf("%s %q has two identities", kind, text)
			}
		}
	}
	if got := NewFactID(UpdateFact, "1").String(); got != "7238018cbe23b89244091f891b1bdce9" {
		t.Errorf("%s: what is stored under an id isn't found again", got)
	}
}

func TestIDsThatCanNotBeKeptAreRefusedByName(t *testing.T) {
	for id, want := range map[string]error{
		"": ErrFactIDEmpty, strings.Repeat("a", 257): ErrFactIDLong, "a\x00": ErrFactIDNUL, "a\xff": ErrFactIDUTF8,
		strings.Repeat("a", 256): nil, "ä\n": nil, " ": nil,
	} {
		if err := CheckFactID(id); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", id, err, want)
		}
	}
}

// said is an update of which every field says something.
func said() (Series, Cost) {
	s := Series{
		APIKey: "k", UserID: "u", EndUserID: "e", TeamID: "t", OrganizationID: "o", AgentID: "a", Model: "m", ModelGroup: "g",
		CustomLLMProvider: "p", MCPNamespacedToolName: "n", Endpoint: "/", Tags: []string{"x", "y"},
	}
	return s, Cost{
		Spend: Picodollars(5), Time: testNow, PromptTokens: 1, CompletionTokens: 2, CacheReadInputTokens: 3, CacheCreationInputTokens: 4,
	}
}

func TestContentIsWhatTheCallerSaidHoweverItIsSpelled(t *testing.T) {
	s, c := said()
	want := ContentOf(&s, &c)
	if want>>fingerprintBits != 0 {
		t.Errorf("%x has more than 48 bits", want)
	}
	same, sameCost := s, c
	same.Tags = []string{"y", "x", "y"}
	sameCost.Time = c.Time.In(time.FixedZone("elsewhere", 3600))
	var err error
	if sameCost.Spend, err = ParseAmount("5.00e-12"); err != nil {
		t.Fatal(err)
	}
	if ContentOf(&same, &sameCost) != want {
		t.Error("the order of tags, the zone of the time or the spelling of the amount makes another content")
	}
}

func TestEveryFieldOfAnUpdateIsPartOfItsContent(t *testing.T) {
	s, c := said()
	seen := map[Fingerprint]string{ContentOf(&s, &c): "nothing"}
	check := func(name string, s Series, c Cost) {
		print := ContentOf(&s, &c)
		if other, there := seen[print]; there {
			t.Errorf("%s changed: content as with %s changed", name, other)
		}
		seen[print] = name
	}
	for i, name := range TextNames() {
		other := s
		*other.Text(i) += "+"
		check(name, other, c)
	}
	for i, name := range TokenNames() {
		other := c
		*other.Tokens(i) += 10
		check(name, s, other)
	}
	tagged := s
	tagged.Tags = []string{"x", "y", "z"}
	check("tags", tagged, c)
	for name, change := range map[string]func(c *Cost){
		"spend": func(c *Cost) { c.Spend = c.Spend.Neg() }, "status": func(c *Cost) { c.Status = Failure },
		"time": func(c *Cost) { c.Time = c.Time.Add(1) }, "second": func(c *Cost) { c.Time = c.Time.Add(time.Second) },
		"no time": func(c *Cost) { c.Time = time.Time{} },
	} {
		other := c
		change(&other)
		check(name, s, other)
	}
}

func TestTheOrderOfTheUpdatesOfARequestMeansNothingAndTheirNumberDoes(t *testing.T) {
	print := func(amounts ...int64) Fingerprint {
		var r RequestContent
		for _, n := range amounts {
			r.Add(&Series{APIKey: "k"}, &Cost{Spend: Dollars(n)})
		}
		return r.Fingerprint()
	}
	if print(1, 2, 3) != print(3, 1, 2) {
		t.Error("the same updates in another order are another content")
	}
	all := []Fingerprint{print(), print(1), print(1, 1), print(2), print(1, 2), print(1, 2, 2), print(1, 1, 2)}
	slices.Sort(all)
	if len(slices.Compact(all)) != 7 {
		t.Error("other updates have the same content")
	}
	s := Series{APIKey: "k"}
	if print(1) == ContentOf(&s, &Cost{Spend: Dollars(1)}) {
		t.Error("a request of one update has the content of the update")
	}
}

func TestNamesOfFactsAreMadeWithoutAllocations(t *testing.T) {
	s, c := said()
	if n := testing.AllocsPerRun(100, func() {
		NewFactID(UpdateFact, "chatcmpl-0123456789")
		ContentOf(&s, &c)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFact(b *testing.B) {
	s, c := said()
	b.ReportAllocs()
	for b.Loop() {
		NewFactID(UpdateFact, "chatcmpl-0123456789")
		ContentOf(&s, &c)
	}
}

func TestABucketIsNeverDividedHoweverManyShardsThereAre(t *testing.T) {
	r := newRand(t)
	for shards := 1; shards <= MaxShards; shards++ {
		of := [Buckets]int{}
		for i := range of {
			of[i] = -1
		}
		for range 1000 {
			var key Key
			for i := range key {
				key[i] = byte(r.Uint32())
			}
			bucket, shard := key.Bucket(), key.Shard(shards)
			if bucket < 0 || bucket >= Buckets || shard < 0 || shard >= shards {
				t.Fatalf("bucket %d, shard %d of %d", bucket, shard, shards)
			}
			if of[bucket] >= 0 && of[bucket] != shard {
				t.Fatalf("bucket %d is in the shards %d and %d of %d", bucket, of[bucket], shard, shards)
			}
			of[bucket] = shard
		}
	}
}
