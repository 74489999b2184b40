package access

import (
	"fmt"
	"strings"
)

// Roles are what a token may do.
type Roles uint8

// The roles. What a role allows stands with each route of the HTTP API.
const (
	Write   Roles = 1 << iota // record updates
	Read                      // read what was booked, and how everything stands
	Operate                   // settle entries of the quarantine, and have the books audited

	All = Write | Read | Operate
)

var roleNames = []string{"write", "read", "operate"}

// Names returns the names of the roles, in the order of the constants.
func (r Roles) Names() []string {
	names := make([]string, 0, len(roleNames))
	for i, name := range roleNames {
		if r&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String is the names with commas.
func (r Roles) String() string { return strings.Join(r.Names(), ",") }

const allowedRoles = "write, read and operate, with commas and without blanks, or: all"

// parseRoles reads names with commas.
func parseRoles(text string) (Roles, error) {
	if text == "all" {
		return All, nil
	}
	var roles Roles
	for name := range strings.SplitSeq(text, ",") {
		role, ok := roleOf(name)
		if !ok {
			return 0, fmt.Errorf("the second field isn't a list of roles; allowed are %s", allowedRoles)
		}
		roles |= role
	}
	return roles, nil
}

func roleOf(name string) (Roles, bool) {
	for i, known := range roleNames {
		if name == known {
			return 1 << i, true
		}
	}
	return 0, false
}
