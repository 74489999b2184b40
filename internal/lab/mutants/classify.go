package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// verdict is what became of a mutant.
type verdict string

const (
	caught          verdict = "caught"
	survived        verdict = "SURVIVED"      // the tests pass
	caughtElsewhere verdict = "NOT BY THESE"  // something fails, but none of the tests that must
	broken          verdict = "DOESN'T BUILD" // an error of the mutant, no catch
	untried         verdict = "NOT RUN"       // the text isn't there, there is no such test, or the time was over
)

// classified is a verdict and what it rests on.
type classified struct {
	verdict verdict
	failed  []string // the expected tests that failed; with elsewise, those that failed
	passed  []string // the expected tests that passed
	output  string   // what go test said
}

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Test, Output, FailedBuild string
}

// tally is what the events of one run say.
type tally struct {
	states      map[string]string // by test: run, pause, cont, pass, fail, skip
	output      strings.Builder
	built       bool
	packageFail bool
}

func read(from io.Reader) (*tally, error) {
	t := &tally{states: map[string]string{}, built: true}
	for d := json.NewDecoder(from); ; {
		var e event
		if err := d.Decode(&e); err == io.EOF {
			return t, nil
		} else if err != nil {
			return t, fmt.Errorf("output of go test -json: %w", err)
		}
		switch e.Action {
		case "output", "build-output":
			t.output.WriteString(e.Output)
		case "build-fail":
			t.built = false
		case "run", "pause", "cont", "pass", "fail", "skip":
			if e.Test != "" {
				t.states[e.Test] = e.Action
			} else if e.Action == "fail" {
				t.packageFail = true
				t.built = t.built && e.FailedBuild == ""
			}
		}
	}
}

// failed says whether the test failed, or was running when the package did: a panic elsewhere, or a
// test that hangs, doesn't end it.
func (t *tally) failed(test string) bool {
	switch t.states[test] {
	case "fail":
		return true
	case "run", "cont":
		return t.packageFail
	}
	return false
}

// classify says what became of a mutant that these tests must catch.
func (t *tally) classify(expected []string) classified {
	j := classified{output: t.output.String()}
	for _, test := range expected {
		switch {
		case t.failed(test):
			j.failed = append(j.failed, test)
		case t.states[test] == "pass":
			j.passed = append(j.passed, test)
		}
	}
	switch {
	case !t.built:
		j.verdict = broken
	case len(j.failed) > 0:
		j.verdict = caught
	case len(j.failed)+len(j.passed) < len(expected):
		j.verdict = untried
	case !t.packageFail:
		j.verdict = survived
	default:
		j.verdict = caughtElsewhere
		for test := range t.states {
			if t.failed(test) {
				j.failed = append(j.failed, test)
			}
		}
		slices.Sort(j.failed)
	}
	return j
}
