package quarantine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

// conflictOf is the view of a conflict over a request and so many updates, each with an id, of one
// series.
func conflictOf(t *testing.T, updates int) *View {
	t.Helper()
	part := func(key, cost string) spend.FactPart {
		series := &spend.Series{APIKey: key, Model: "m"}
		canonical := spend.CanonicalSeries(series.AppendCanonical(nil, spend.AllDimensions))
		return spend.FactPart{
			Series: canonical, Key: canonical.Key(), Hour: spend.HourOf(time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)),
			Counters: spend.Counters{Spend: amount(t, cost), SuccessfulRequests: 1},
		}
	}
	var b spend.FactBatch
	request := []spend.FactPart{part("a", "0.25"), part("b", "0.5")}
	if !b.Add(spend.NewFactID(spend.RequestFact, "key"), 1, false, request...) {
		t.Fatal("the request doesn't fit")
	}
	for i := range updates {
		if !b.Add(spend.NewFactID(spend.UpdateFact, fmt.Sprint(i)), 2, true, part("k", "2")) {
			t.Fatalf("update %d doesn't fit", i)
		}
	}
	batch := b.Seal(&spend.BatchKeys{}, spend.Header{Producer: spend.ProducerID{1}, Sequence: 1, SealedAt: time.Now()})
	v := &View{entry: &pgstore.Quarantined{ID: 7, Kind: "conflict", State: "open", Sequence: 1, Producer: batch.Producer, Counted: true, Updates: batch.Updates}}
	v.read(batch.Bytes())
	if v.fault != nil {
		t.Fatal(v.fault)
	}
	return v
}

func TestAConflictNamesItsIDsAndWhatEachCounts(t *testing.T) {
	v := conflictOf(t, 1)
	j := v.JSON()
	if len(j.IDs) != 2 || j.AllIDs != 2 {
		t.Fatalf("%d ids of %d", len(j.IDs), j.AllIDs)
	}
	slices.SortFunc(j.IDs, func(a, b idJSON) int { return strings.Compare(a.Kind, b.Kind) })
	if r := j.IDs[0]; r.Kind != "request" || r.Identity != spend.NewFactID(spend.RequestFact, "key").String() || r.Updates != 2 || r.Spend != amount(t, "0.75") || r.Series != nil {
		t.Errorf("%+v", r)
	}
	if u := j.IDs[1]; u.Kind != "update" || u.Identity != spend.NewFactID(spend.UpdateFact, "0").String() || u.Updates != 1 || u.Spend != amount(t, "2") ||
		u.Hour.Hour() != 12 || u.Series.APIKey != "k" {
		t.Errorf("%+v", u)
	}
	var text strings.Builder
	if err := v.Print(&text); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(text.String()), " ")
	for _, want := range []string{
		"updates under ids used before, of producer", j.IDs[0].Identity + " one request 2 0.75", j.IDs[1].Identity + ` one update 1 2 2026-11-20T12:00Z api_key="k" model="m"`,
		`quarantine drop 7" if it is one thing`, `quarantine apply 7" if it is another one`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
}

func TestOfManyIDsTheFirstAreShownAndAllAreCounted(t *testing.T) {
	v := conflictOf(t, 150)
	if j := v.JSON(); len(j.IDs) != 100 || j.AllIDs != 151 {
		t.Errorf("%d ids of %d", len(j.IDs), j.AllIDs)
	}
	var text strings.Builder
	if err := v.Print(&text); err != nil || !strings.Contains(text.String(), "\nand 51 more\n") {
		t.Errorf("%v\n%s", err, text.String())
	}
}
