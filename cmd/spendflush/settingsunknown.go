package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// kubernetesLinks are the variables that Kubernetes sets in every pod of a namespace with a Service
// named spendflush.
var kubernetesLinks = regexp.MustCompile(`^SPENDFLUSH_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// unknownSettings says what is wrong with the variables that look like ours and aren't: a line
// each.
func unknownSettings(values map[string]string) (problems []string) {
	var known []string
	for _, t := range settingTable() {
		known = append(known, t.name)
		if t.secret {
			known = append(known, t.fileName())
		}
	}
	for name := range values {
		if !strings.HasPrefix(name, "SPENDFLUSH_") || strings.HasPrefix(name, "SPENDFLUSH_TEST_") || kubernetesLinks.MatchString(name) {
			continue
		}
		if nearest, distance := nearestName(name, known); distance > 0 {
			problems = append(problems, fmt.Sprintf("%s: there is no such setting; the nearest is %s, and `spendflush env` lists all", name, nearest))
		}
	}
	return problems
}

// nearestName returns the known name that takes the fewest changes of one character, and how many.
// What isn't secret has no file: the nearest name is its own.
func nearestName(name string, known []string) (nearest string, distance int) {
	distance = -1
	if plain, ok := strings.CutSuffix(name, "_FILE"); ok && !slices.Contains(known, name) && slices.Contains(known, plain) {
		return plain, len("_FILE")
	}
	for _, k := range known {
		if d := changes(name, k); distance < 0 || d < distance {
			nearest, distance = k, d
		}
	}
	return nearest, distance
}

// changes is how many characters must be added, taken out or replaced to make b of a.
func changes(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
