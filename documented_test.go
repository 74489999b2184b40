package spendflush

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What the README shows of embedding is part of a program that the tests run.
func TestTheCodeOfTheREADMEOnEmbeddingIsThatOfTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_embedding_test.go")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)### In a service of your own.*?```go\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no code on embedding")
	}
	rest := string(example)
	for line := range strings.Lines(string(block[1])) {
		line = strings.TrimSpace(line)
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Errorf("the example doesn't have, behind the lines before: %s", line)
			continue
		}
		rest = after
	}
}
