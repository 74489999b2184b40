package main

import (
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var boundsTold = regexp.MustCompile(`^(\S+)(?: \(off\))? (?:to (\S+?)|or more)(?:; (0s?): .+)?$`)

// What is told of a number or a duration is read back, and tried.
func TestNumbersAndDurationsHaveTheBoundsThatAreTold(t *testing.T) {
	for _, s := range settingTable() {
		kind := s.field.Type.Kind()
		if s.field.Type == reflect.TypeFor[slog.Level]() || kind != reflect.Int && kind != reflect.Int64 {
			continue
		}
		told := boundsTold.FindStringSubmatch(s.allowed)
		if told == nil || s.field.Tag.Get("allowed") != "" {
			t.Errorf("%s is a number, and its bounds are told as %q", s.name, s.allowed)
			continue
		}
		try := func(value string, want bool) {
			t.Helper()
			_, err := load([]string{s.name + "=" + value}, 0)
			if (err == nil) != want || err != nil && !strings.Contains(err.Error(), s.name+`: "`+value+`" is not allowed; allowed: `+s.allowed) {
				t.Errorf("%s=%s: %v; told is %s", s.name, value, err, s.allowed)
			}
		}
		least, most, zero := told[1], told[2], told[3]
		try(least, true)
		if zero != "" {
			try(zero, true)
		}
		if below := beside(least, -1); below != zero {
			try(below, false)
		}
		try(beside("0", -1)+strings.TrimLeft(least, "0123456789"), false)
		if most != "" {
			try(most, true)
			try(beside(most, 1), false)
		}
	}
}

// beside returns the number by, or the duration by nanoseconds, from the one given.
func beside(text string, by int64) string {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return fmt.Sprint(n + by)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return (d + time.Duration(by)).String()
}
