package overview

import "fmt"

// IDs are what the books know of the ids of callers.
type IDs struct {
	Estimate int64   `json:"estimate"` // how many there are, by Postgres's estimate
	Bytes    int64   `json:"bytes"`    // of their tables and indexes
	Window   float64 `json:"window_seconds"`
}

// diagnoseQuarantine tells conflicts from other entries: it is a client that has to be mended then.
func diagnoseQuarantine(r *Report) (list []Problem) {
	waits := func(n int64) string {
		if n == 1 {
			return "waits"
		}
		return "wait"
	}
	if others := r.Quarantined - r.Conflicts; others > 0 {
		list = append(list, Problem{Warn, fmt.Sprintf("%s %s in quarantine for a decision.", count(others, "entry"), waits(others)),
			"Look at each: mend what its reason says and apply it, or drop it.", runQuarantined})
	}
	if n := r.Conflicts; n > 0 {
		list = append(list, Problem{Warn, fmt.Sprintf("%s of ids %s in quarantine for a decision: a client has used ids twice, for different things.", count(n, "conflict"), waits(n)),
			"Find out which client, and have it mend its ids. Apply what costs money beside what came first; drop what is the same thing.", runConflicts})
	}
	return list
}

// idsText says how many ids there are, and how long each is known.
func (r *Report) idsText() string {
	text := fmt.Sprintf("about %d, %s", r.IDs.Estimate, size(r.IDs.Bytes))
	if r.IDs.Window > 0 {
		text += "; an id counts once for " + days(r.IDs.Window)
	}
	return text
}

// days writes a long duration. What isn't days is hours.
func days(s float64) string {
	if s < 3*86400 {
		return fmt.Sprintf("%.3g h", s/3600)
	}
	return fmt.Sprintf("%.3g days", s/86400)
}
