package spend

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

func TestUpdateOutOfBoundsIsRefusedByTheNameOfItsField(t *testing.T) {
	ok := func() Update { return Update{Cost: Cost{Spend: Dollars(1)}, Series: Series{APIKey: "k"}} }
	for field, spoil := range map[string][]func(u *Update){
		"spend": {
			func(u *Update) { u.Spend = MaxSpend.Add(Picodollars(1)) },
			func(u *Update) { u.Spend = MaxSpend.Add(Picodollars(1)).Neg() },
			func(u *Update) { u.Spend = AmountFromUnits(-1<<63, 0) },
		},
		"status": {func(u *Update) { u.Status = 2 }},
		"time": {
			func(u *Update) { u.Time = testNow.Add(-MaxAge - 1) },
			func(u *Update) { u.Time = testNow.Add(MaxAhead + 1) },
		},
		"prompt_tokens":               {func(u *Update) { u.PromptTokens = -1 }, func(u *Update) { u.PromptTokens = MaxTokens + 1 }},
		"completion_tokens":           {func(u *Update) { u.CompletionTokens = -1 }},
		"cache_read_input_tokens":     {func(u *Update) { u.CacheReadInputTokens = MaxTokens + 1 }},
		"cache_creation_input_tokens": {func(u *Update) { u.CacheCreationInputTokens = -1 << 63 }},
		"api_key":                     {func(u *Update) { u.APIKey = "a\x00b" }, func(u *Update) { u.APIKey = string(make([]byte, 257)) }},
		"model":                       {func(u *Update) { u.Model = "\xff" }},
		"tags": {
			func(u *Update) { u.Tags = []string{""} },
			func(u *Update) { u.Tags = make([]string, MaxTags+1) },
			func(u *Update) { u.Tags = []string{"a", "\xc3"} },
		},
		"": {func(u *Update) { u.Series = Series{Model: "m"} }},
	} {
		for i, spoil := range spoil {
			u := ok()
			spoil(&u)
			var refused *UpdateError
			if err := u.checkAt(3, testNow); !errors.As(err, &refused) || !errors.Is(err, ErrInvalidUpdate) || refused.Field != field || refused.Index != 3 {
				t.Errorf("%q (%d): %v", field, i, err)
			}
		}
	}
	for _, at := range []time.Time{{}, testNow.Add(-MaxAge), testNow.Add(MaxAhead)} {
		u := ok()
		u.Time, u.Spend, u.PromptTokens = at, MaxSpend.Neg(), MaxTokens
		if err := u.checkAt(0, testNow); err != nil {
			t.Errorf("an update at the very bounds: %v", err)
		}
	}
}

func TestAStatusThatIsNoneIsNeitherWrittenNorRead(t *testing.T) {
	if text, err := json.Marshal(Update{Cost: Cost{Status: 2}}); err == nil {
		t.Errorf("written: %s", text)
	}
	for _, text := range []string{`"done"`, `""`, `"Success"`, `1`} {
		u := Update{Cost: Cost{Status: Failure}}
		if err := json.Unmarshal([]byte(`{"spend":"1","status":`+text+`}`), &u); err == nil || u.Status != Failure {
			t.Errorf("%s is read as %s: %v", text, u.Status, err)
		}
	}
}
