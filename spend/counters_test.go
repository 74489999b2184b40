package spend

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// namesOf returns the JSON names of the fields of a kind, in their order, without those of fields
// that are embedded.
func namesOf(of any, kind reflect.Kind) (names []string) {
	t := reflect.TypeOf(of)
	for i := range t.NumField() {
		if f := t.Field(i); f.Type.Kind() == kind && !f.Anonymous {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

func TestTheTablesOfCountersTokensAndTextsHaveEveryFieldOnceInItsPlace(t *testing.T) {
	var c Counters
	if got := namesOf(c, reflect.Int64); !slices.Equal(got, CountNames()) {
		t.Errorf("the whole numbers of Counters are %v, CountNames has %v", got, CountNames())
	}
	var cost Cost
	if got := namesOf(cost, reflect.Int64); !slices.Equal(got, TokenNames()) {
		t.Errorf("the numbers of tokens of Cost are %v, TokenNames has %v", got, TokenNames())
	}
	var s Series
	if got := namesOf(s, reflect.String); !slices.Equal(got, TextNames()) {
		t.Errorf("the texts of Series are %v, TextNames has %v", got, TextNames())
	}

	// field returns the number or text of that name.
	field := func(of reflect.Value, name string) any {
		for i := range of.NumField() {
			if tag, _, _ := strings.Cut(of.Type().Field(i).Tag.Get("json"), ","); tag == name {
				return of.Field(i).Interface()
			}
		}
		return nil
	}
	for i, name := range CountNames() {
		if *c.Count(i) = int64(i + 1); field(reflect.ValueOf(c), name) != int64(i+1) {
			t.Errorf("Count(%d) isn't %s", i, name)
		}
	}
	for i, name := range TokenNames() {
		if *cost.Tokens(i) = int64(i + 1); field(reflect.ValueOf(cost), name) != int64(i+1) {
			t.Errorf("Tokens(%d) isn't %s", i, name)
		}
	}
	for i, name := range TextNames() {
		if *s.Text(i) = name; field(reflect.ValueOf(s), name) != name {
			t.Errorf("Text(%d) isn't %s", i, name)
		}
	}
}

func TestACostAndOtherCountersAreAddedInEveryCounter(t *testing.T) {
	var sum, more Counters
	cost := Cost{Spend: Dollars(3)}
	for i := range TokenNames() {
		*cost.Tokens(i) = int64(10 + i)
	}
	more.AddCost(&cost)
	cost.Status = Failure
	more.AddCost(&cost)
	for range 3 {
		sum.Add(&more)
	}
	want := []int64{3, 3}
	for i := range TokenNames() {
		want = append(want, int64(6*(10+i)))
	}
	for i, name := range CountNames() {
		if *sum.Count(i) != want[i] {
			t.Errorf("%s is %d, want %d", name, *sum.Count(i), want[i])
		}
	}
	if sum.Spend != Dollars(18) || sum.APIRequests() != 6 {
		t.Errorf("%+v", sum)
	}
}
