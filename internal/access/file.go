package access

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxName    = 64
	allowedRow = "a line has tokens with commas, which have all roles, or: NAME ROLES TOKEN"
)

// ErrNoTokens: the file has none. It would open the API to everybody.
var ErrNoTokens = errors.New("there is no token in it; " + allowedRow)

// parse reads the text of a file. An error names the line, and never has anything of a token.
func parse(text string) ([]entry, error) {
	var entries []entry
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		place := fmt.Sprintf("line %d", number)
		found, err := parseLine(line, place)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		entries = append(entries, found...)
	}
	if len(entries) == 0 {
		return nil, ErrNoTokens
	}
	return entries, nil
}

func parseLine(line, place string) ([]entry, error) {
	fields := strings.Fields(line)
	switch {
	case len(fields) == 0 || fields[0] == "#":
		return nil, nil
	case strings.HasPrefix(fields[0], "#"):
		return nil, errors.New("it begins with # and no blank after it; a comment begins with # and a blank, and no token or name begins with #")
	case len(fields) == 1:
		return parsePlain(fields[0], place)
	case len(fields) != 3:
		return nil, fmt.Errorf("it has %d fields; %s", len(fields), allowedRow)
	}
	if !isName(fields[0]) {
		return nil, fmt.Errorf("the first field is not a name; allowed are 1 to %d letters of ASCII, digits and any of - _ . that don't begin with %s",
			maxName, plainPrefix)
	}
	roles, err := parseRoles(fields[1])
	if err != nil {
		return nil, err
	}
	if !IsAllowed(fields[2]) || strings.Contains(fields[2], ",") {
		return nil, fmt.Errorf("%w, and without commas", errWeak)
	}
	return []entry{{name: fields[0], roles: roles, text: fields[2], place: place}}, nil
}

func parsePlain(list, place string) (entries []entry, err error) {
	for text := range strings.SplitSeq(list, ",") {
		if !IsAllowed(text) {
			return nil, errWeak
		}
		entries = append(entries, entry{roles: All, text: text, place: place})
	}
	return entries, nil
}

func isName(text string) bool {
	if text == "" || len(text) > maxName || isPlain(text) {
		return false
	}
	return !strings.ContainsFunc(text, func(c rune) bool {
		isLetter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		return !isLetter && !(c >= '0' && c <= '9') && !strings.ContainsRune("-_.", c)
	})
}

// Parse makes a list of the text of a file. An error names the line.
func Parse(text string) (*List, error) { return parseList(text, nil) }

func parseList(text string, old *List) (*List, error) {
	entries, err := parse(text)
	if err != nil {
		return nil, err
	}
	return newList(entries, old)
}

// listOf makes a list of the text of a file. An error names the file and the line.
func listOf(path, text string, old *List) (*List, error) {
	list, err := parseList(text, old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}
