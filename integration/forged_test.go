package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

const (
	queueKeyA = "SPENDFLUSH_QUEUE_KEY=00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
	queueKeyB = "SPENDFLUSH_QUEUE_KEY=ffeeddccbbaa998877665544332211000123456789abcdef0123456789abcdef"
)

func TestForgedBatchesInRedisAreSetAsideWhereThereIsAKey(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	in := s.start("only", queueKeyA)
	in.post(`{"spend": 1, "api_key": "honest"}`)
	forged := s.handMade(spend.NewProducerID(time.Now()), 1, spent{"victim", "-1000000"})
	s.enqueue(forged.Producer, 1, forged.Bytes())
	eventually(t, "it is in quarantine", func() string {
		if n := s.number("SELECT count(*) FROM spendflush.quarantine"); n != 1 {
			return fmt.Sprintf("%d entries", n)
		}
		return ""
	})
	s.awaitEmptyQueue()
	in.post(`{"spend": 1, "api_key": "honest"}`)
	if got := s.total("victim").Requests; got != 0 {
		t.Errorf("%d forged requests are booked", got)
	}
	list := s.quarantined()
	if len(list) != 1 || !strings.Contains(list[0].Reason, "signed") || list[0].Updates != nil {
		t.Fatalf("in quarantine are %+v", list)
	}

	apply := quarantine("apply", list[0].ID)
	for _, c := range []struct {
		says      string
		status    int
		variables []string
	}{
		{"signed", 1, []string{queueKeyA}},
		{"signed", 1, []string{queueKeyB}},
		{"applied", 0, []string{queueKeyA, "SPENDFLUSH_QUEUE_KEY_ACCEPTED=unsigned"}},
	} {
		status, stdout, stderr := run(t, s.variables(c.variables...), apply...)
		if status != c.status || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%q: exit status %d\n%s%s", c.variables, status, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, "00112233") || strings.Contains(stdout+stderr, "ffeeddcc") {
			t.Error("the key is shown")
		}
	}
}

// The roll-out of the first key, one instance after the other.
func TestForgedBatchesAreNotSeenInThoseOfInstancesThatGetTheKeyLater(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	const rolling = "SPENDFLUSH_QUEUE_KEY_ACCEPTED=unsigned"
	for i, pair := range [][2][]string{{nil, {queueKeyA, rolling}}, {{queueKeyA, rolling}, {queueKeyA}}} {
		one, two := s.start(fmt.Sprint("one-", i), pair[0]...), s.start(fmt.Sprint("two-", i), pair[1]...)
		for range 10 {
			one.post(`{"spend": 1, "api_key": "k"}`)
			two.post(`{"spend": 1, "api_key": "k"}`)
		}
		one.stop(0)
		two.stop(0)
	}
	if got := s.total("k").Requests; got != 40 {
		t.Errorf("%d requests are booked, want 40", got)
	}
	if n := s.number("SELECT count(*) FROM spendflush.quarantine"); n != 0 {
		t.Errorf("%d entries in quarantine", n)
	}
}
