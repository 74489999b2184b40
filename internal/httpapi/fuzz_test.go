package httpapi

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spendflush/spendflush/spend"
)

func FuzzAUsageQueryIsWholeOrRefused(f *testing.F) {
	for _, query := range []string{
		"", "by=hour&from=2026-11-01&to=2026-11-02", "entity_type=team_member&team_id=t&entity_id=u&group_by=model,tag",
		"tz=Europe%2FBerlin&from=2026-03-29T02:30:00&by=day", "format=csv&by=total", "from=0001-01-01T00:00:00Z&to=9999-12-31",
		"tz=../../etc/passwd", "group_by=,&by=%00", "entity_id=%ff&entity_type=tag", "from=1&from=2",
	} {
		f.Add(query)
	}
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/v1/usage", nil)
		r.URL.RawQuery = query
		q, _, p := usageOf(r, now)
		if p != nil {
			if p.Status < 400 || p.Status >= 500 {
				t.Fatalf("%q is refused with %d", query, p.Status)
			}
			return
		}
		if q.Location == nil || !q.From.Before(q.To) {
			t.Fatalf("%q means %+v", query, q)
		}
		if !utf8.ValidString(q.EntityID) || len(q.EntityID) > spend.MaxIDBytes {
			t.Fatalf("%q means the entity %q", query, q.EntityID)
		}
	})
}

func FuzzAnEntityPathIsReadAsItWasWritten(f *testing.F) {
	f.Add("team", "a/b", "")
	f.Add("team_member", "t::1", "u%2F")
	f.Add("tag", "\xff", "")
	f.Add("api_key", "..", "")
	f.Fuzz(func(t *testing.T, kind, first, second string) {
		path := kind + "/" + url.PathEscape(first)
		if second != "" {
			path += "/" + url.PathEscape(second)
		}
		e, p := entityOf(path)
		if p != nil {
			return
		}
		want := spend.Entity{Type: e.Type, ID: first}
		if e.Type == spend.TeamMember {
			want = spend.Entity{Type: e.Type, TeamID: first, ID: second}
		}
		if e != want || e.Type.String() != kind || !slices.Contains(spend.EntityTypes(), e.Type) {
			t.Fatalf("%q is read as %+v", path, e)
		}
	})
}
