package spendflush_test

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spendflush/spendflush"
	"github.com/spendflush/spendflush/spend"
)

func ExampleParseAmount() {
	price, err := spendflush.ParseAmount("1.5e-7") // dollars a token
	if err != nil {
		fmt.Println(err)
		return
	}
	sum := spendflush.Amount{}
	for range 1_000_000 {
		sum = sum.Add(price)
	}
	fmt.Println(price, sum)

	_, err = spendflush.ParseAmount("1,50")
	fmt.Println(errors.Is(err, spend.ErrAmount), err)
	// Output:
	// 0.00000015 0.15
	// true not an amount: "1,50": want a decimal number of dollars such as 0.000012
}

// Numbers are read without a float in between, and written as strings, so that readers can do the
// same.
func ExampleAmount_json() {
	var bill struct {
		Spend spendflush.Amount `json:"spend"`
	}
	if err := json.Unmarshal([]byte(`{"spend": 1234567890123.000000000001}`), &bill); err != nil {
		fmt.Println(err)
		return
	}
	text, err := json.Marshal(bill)
	fmt.Println(string(text), err)
	// Output: {"spend":"1234567890123.000000000001"} <nil>
}

// The order and repetition of tags don't make another series; neither do separators in ids.
func ExampleSeries_Key() {
	a := spendflush.Series{TeamID: "a", UserID: "b", Tags: []string{"x", "y"}}
	b := spendflush.Series{TeamID: "a", UserID: "b", Tags: []string{"y", "x", "y"}}
	c := spendflush.Series{TeamID: "a::b", Tags: []string{"x", "y"}}
	fmt.Println(a.Key() == b.Key(), a.Key() == c.Key())
	// Output: true false
}

func ExampleUpdate_Check() {
	u := spendflush.Update{Cost: spend.Cost{Spend: spendflush.Dollars(1), PromptTokens: -1}, Series: spendflush.Series{APIKey: "sk-1"}}
	fmt.Println(u.Check(0))
	// Output: invalid update 0: prompt_tokens: -1 is out of range; allowed are 0 to 1000000000
}
