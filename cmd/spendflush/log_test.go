package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// late is a duration that is known only when it is logged.
type late time.Duration

func (l late) LogValue() slog.Value { return slog.DurationValue(time.Duration(l)) }

func TestADurationInTheLogHasAUnitInEveryForm(t *testing.T) {
	const took = 1500 * time.Millisecond
	for _, format := range []string{"json", "text", "auto"} {
		var text bytes.Buffer
		log := newLogger(&settings{LogFormat: format}, &text)
		log.With("with", took).WithGroup("group").Info("done",
			"plain", took, "resolved", late(took), slog.Group("inner", "nested", took), "count", 1500000000)
		line := text.String()
		if format == "text" {
			if strings.Count(line, "=1.5s") != 4 {
				t.Errorf("text: %s", line)
			}
			continue
		}
		var got struct {
			With  string `json:"with"`
			Group struct {
				Plain    string `json:"plain"`
				Resolved string `json:"resolved"`
				Count    int    `json:"count"`
				Inner    struct {
					Nested string `json:"nested"`
				} `json:"inner"`
			} `json:"group"`
		}
		if err := json.Unmarshal(text.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v in %s", format, err, line)
		}
		g := got.Group
		for _, is := range []string{got.With, g.Plain, g.Resolved, g.Inner.Nested} {
			if is != "1.5s" {
				t.Errorf("%s: %q in %s", format, is, line)
			}
		}
		if g.Count != 1500000000 {
			t.Errorf("%s: a number became %d", format, g.Count)
		}
	}
}
