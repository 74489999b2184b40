package pgstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// eachHour books one dollar in every hour from a moment on.
func eachHour(t *testing.T, s *Store, from, to time.Time) {
	t.Helper()
	var requests []request
	for h := spend.HourOf(from); h < spend.HourOf(to); h++ {
		requests = append(requests, request{spend.Series{APIKey: "k"}, h, one("1")})
	}
	apply(t, s, flushOf(newProducer(), 1, 1, requests...))
}

func zoneOf(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// The zones whose days don't begin with a whole UTC hour, and where the clock is changed by how
// much. An hour counts on the day in which it starts, so that a day has as many as start in it.
var shiftedZones = []struct {
	zone, from, to string // the first day, and the first that isn't in the report any more
	hours          []int
	shift          int // minutes
}{
	{"Asia/Kolkata", "2026-10-01", "2026-10-04", []int{24, 24, 24}, 30},
	{"Asia/Kathmandu", "2026-10-01", "2026-10-04", []int{24, 24, 24}, 45},
	{"America/St_Johns", "2026-03-07", "2026-03-10", []int{24, 23, 24}, 30},
	{"America/St_Johns", "2026-10-31", "2026-11-03", []int{24, 25, 24}, 30},
	{"Australia/Adelaide", "2026-04-04", "2026-04-07", []int{24, 25, 24}, 30},
	{"Australia/Adelaide", "2026-10-03", "2026-10-06", []int{24, 23, 24}, 30},
	{"Australia/Lord_Howe", "2026-04-02", "2026-04-05", []int{24, 24, 24}, 0}, // summer time is 11 hours ahead
	{"Australia/Lord_Howe", "2026-04-04", "2026-04-07", []int{24, 25, 24}, 30},
	{"Australia/Lord_Howe", "2026-10-03", "2026-10-06", []int{24, 23, 24}, 30},
	{"Australia/Lord_Howe", "2026-10-05", "2026-10-08", []int{24, 24, 24}, 0},
	{"Europe/Berlin", "2026-10-24", "2026-10-27", []int{24, 25, 24}, 0},
}

func TestDaysOfShiftedZonesHaveTheHoursThatStartInThemAndSayByHowMuchTheyAreShifted(t *testing.T) {
	s := open(t, database(t), Options{})
	eachHour(t, s, at("2026-03-01T00:00Z"), at("2026-11-05T00:00Z"))
	for _, c := range shiftedZones {
		zone := zoneOf(t, c.zone)
		day := func(text string) time.Time {
			date, err := time.ParseInLocation(time.DateOnly, text, zone)
			if err != nil {
				t.Fatal(err)
			}
			return date
		}
		q := UsageQuery{From: FirstHour(day(c.from)), To: FirstHour(day(c.to)), By: Day, Location: zone}
		var want []string
		all := 0
		for i, hours := range c.hours {
			date := day(c.from).AddDate(0, 0, i)
			want = append(want, fmt.Sprintf("%s %d %d", date.Format("2006-01-02T15:04Z07:00"), hours, hours))
			all += hours
		}
		wantLines(t, usage(t, s, q), want...)
		if got := q.DayShift(); got != time.Duration(c.shift)*time.Minute {
			t.Errorf("%s from %s: the days are shifted by %s, want %d minutes", c.zone, c.from, got, c.shift)
		}

		q.By = Total
		if lines := usage(t, s, q); len(lines) != 1 || lines[0] != fmt.Sprintf("%s %d %d", q.From.Format("2006-01-02T15:04Z07:00"), all, all) {
			t.Errorf("%s from %s: in total %q", c.zone, c.from, lines)
		}
	}
}

func TestMonthsOfUsageAreThoseOfTheZone(t *testing.T) {
	s := open(t, database(t), Options{})
	eachHour(t, s, at("2026-02-25T00:00Z"), at("2026-12-03T00:00Z"))
	for _, c := range []struct {
		zone        string
		april, july int // hours
		october     int
		shift       int // minutes
	}{
		{"UTC", 720, 744, 744, 0},
		{"Europe/Berlin", 720, 744, 745, 0},
		{"Asia/Kolkata", 720, 744, 744, 30},
		{"Asia/Kathmandu", 720, 744, 744, 45},
		{"America/St_Johns", 720, 744, 744, 30}, // it changes in March and November
		{"Australia/Adelaide", 721, 744, 743, 30},
		{"Australia/Lord_Howe", 721, 744, 743, 30}, // by half an hour
	} {
		zone := zoneOf(t, c.zone)
		month := func(m time.Month) time.Time { return time.Date(2026, m, 1, 0, 0, 0, 0, zone) }
		q := UsageQuery{From: FirstHour(month(4)), To: FirstHour(month(11)), By: Month, Location: zone}
		lines := usage(t, s, q)
		if len(lines) != 7 {
			t.Fatalf("%s: %q", c.zone, lines)
		}
		for m, hours := range map[time.Month]int{4: c.april, 7: c.july, 10: c.october} {
			want := fmt.Sprintf("%s %d %d", month(m).Format("2006-01-02T15:04Z07:00"), hours, hours)
			if got := lines[m-4]; got != want {
				t.Errorf("%s: %s has %q, want %q", c.zone, m, got, want)
			}
		}
		if got := q.DayShift(); got != time.Duration(c.shift)*time.Minute {
			t.Errorf("%s: months are shifted by %s, want %d minutes", c.zone, got, c.shift)
		}
	}

	// A month of which a part is asked for is called by its first moment all the same.
	wantLines(t, usage(t, s, UsageQuery{From: at("2026-04-20T00:00Z"), To: at("2026-05-02T00:00Z"), By: Month}),
		"2026-04-01T00:00Z 264 264", "2026-05-01T00:00Z 24 24")
}
