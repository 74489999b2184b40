//go:build soak && linux

package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// peak returns the most memory that the process has had, in MiB.
func (p *process) peak() int {
	p.t.Helper()
	status := readText(p.t, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(status) {
		if fields := strings.Fields(line); fields[0] == "VmHWM:" {
			kilobytes, err := strconv.Atoi(fields[1])
			if err != nil {
				p.t.Fatal(err)
			}
			return kilobytes >> 10
		}
	}
	p.t.Fatal("no VmHWM in", status)
	return 0
}

// While Postgres is away one tenant sends updates on 68,000 keys, or as many as
// SPENDFLUSH_MANY_TAGS says, each with the 64 tags of 256 bytes that are allowed: little in Redis,
// where a text stands once, and a gigabyte as rows. They are all booked, and another tenant's
// update isn't behind them for long. How much memory the instances had is told in the log.
func TestSoakManyLongTagsAreDrainedAndHoldUpNobody(t *testing.T) {
	keys := 68_000
	if text := os.Getenv("SPENDFLUSH_MANY_TAGS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = n
	}
	server := testserver.NewPostgres(t)
	s := stackOn(t, server.URL("postgres"), testserver.Redis(t))
	instances := s.startAll(2, "SPENDFLUSH_MAX_KEYS=10000000") // else that tenant is refused long before
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	var tags []string
	for i := range 64 {
		tags = append(tags, fmt.Sprintf("%q", fmt.Sprintf("%03d-%s", i, strings.Repeat("t", 252))))
	}
	begun := time.Now()
	post := func(updates []byte) (status int) {
		t.Helper()
		status, answer, err := instances[0].postUpdates("accepted", "application/x-ndjson", updates)
		if err != nil || status != http.StatusAccepted && status != http.StatusServiceUnavailable {
			t.Fatalf("%d %s, %v", status, answer, err)
		}
		return status
	}
	const perRequest = 400
	var body bytes.Buffer
	for first := 0; first < keys; first += perRequest {
		body.Reset()
		for n := first; n < min(first+perRequest, keys); n++ {
			fmt.Fprintf(&body, `{"spend":"1","api_key":"key-%d","tags":[%s]}`+"\n", n, strings.Join(tags, ","))
		}
		for post(body.Bytes()) != http.StatusAccepted { // its memory is full for a moment
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.Logf("sent after %s", time.Since(begun))

	restart(t, server.Restart)
	begun = time.Now()
	innocent := 0
	for status := 0; status != http.StatusOK; innocent++ {
		var err error
		var answer string
		status, answer, err = instances[1].postUpdates("committed", "application/json", []byte(`{"spend":"0","api_key":"innocent"}`))
		if err != nil || status != http.StatusOK && status != http.StatusGatewayTimeout {
			t.Fatalf("%d %s, %v", status, answer, err)
		}
	}
	t.Logf("another tenant's update is committed after %s", time.Since(begun))
	booked := func() int64 { return s.number("SELECT coalesce(sum(updates), 0)::bigint FROM spendflush.producers") }
	for deadline := time.Now().Add(20 * time.Minute); booked() < int64(keys+innocent); {
		if time.Sleep(time.Second); time.Now().After(deadline) {
			t.Fatalf("%d of %d updates are booked", booked(), keys+innocent)
		}
	}
	t.Logf("all are booked after %s", time.Since(begun))
	for _, in := range instances {
		t.Logf("%s had %d MiB at most", in.name, in.peak())
	}
	stopAll(instances)
	// An audit would read a gigabyte of tags, and longer than a command has time for here.
	if spent := query(t, s.postgres, pgx.RowTo[string], "SELECT sum(spend)::text FROM spendflush.spend WHERE entity_type = 'api_key'")[0]; spent != fmt.Sprintf("%d.000000000000", keys) {
		t.Errorf("$%s are booked, want %d", spent, keys)
	}
}
