package overview

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/internal/terminal"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// FuzzAHeartbeatHarmsNoReport reads what anybody may have written who can write to Redis.
func FuzzAHeartbeatHarmsNoReport(f *testing.F) {
	good, err := json.Marshal(&record{
		Instance: Instance{Instance: "a", Producer: "1", StartedAt: time.Unix(1, 0), HoldsShards: []int{0}},
		Holds:    []holding{{0, 3}}, Flushes: []Flush{{Shard: 1, Path: "queue"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	for _, text := range []string{
		`{"flushes":[` + strings.Repeat(`{},`, 9000) + `{}]}`, `{"holds":[` + strings.Repeat(`{},`, 9000) + `{}]}`,
		`{"instance":{"holds_shards":[-1,64,9,9,0]}}`, `{"holds":null,"flushes":7}`, `{"flushes":[[]]}`, `{"flushes":[{},`,
		`{"instance":{"started_at":"9999-12-31T23:59:59-23:59","behind_seconds":1e308,"held_updates":9223372036854775807}}`,
		`{"instance":{"instance":"\u001b[2J\n","held_amount":"99999999999999999999999999.999999999999"}}`, strings.Repeat(`{"instance":`, 2000),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > redisqueue.MaxHeartbeatBytes {
			return
		}
		one, ok := parseRecord(text)
		if !ok {
			return
		}
		if n := max(len(one.Holds), len(one.Flushes), len(one.Instance.HoldsShards)); n > mostListed {
			t.Fatalf("%d elements are kept", n)
		}
		r := Report{AsOf: time.Unix(1_700_000_000, 0), Locks: []Lock{{Shard: 0, Holder: one.Instance.Instance}}}
		r.take([]record{one, one}, nil)
		diagnose(&r)
		answer, err := json.Marshal(&r)
		if err != nil {
			t.Fatalf("the report can't be told any more: %v", err)
		}
		if most := 40*len(text) + 100_000; len(answer) > most {
			t.Fatalf("%d bytes of a record make an answer of %d", len(text), len(answer))
		}
		for _, line := range append(r.Text(&terminal.Output{}), r.Line()) {
			if strings.ContainsAny(line, "\x1b\n\r") {
				t.Fatalf("a line of the report moves the cursor: %q", line)
			}
		}
	})
}

func TestARecordKeepsNoMoreThanAnInstanceTells(t *testing.T) {
	long := strings.Repeat("{},", 9000) + "{}"
	one, ok := parseRecord(fmt.Appendf(nil, `{"instance":{"holds_shards":[64,-1,%s1,0]},"holds":[%s],"flushes":[%s],"newer":[%s]}`,
		strings.Repeat("1,", 1000), long, long, long))
	if in := &one.Instance; !ok || len(in.HoldsShards) != 2 || in.HoldsShards[1] != 1 || cap(in.HoldsShards) > 16 {
		t.Errorf("held are %d shards of %d: %v", len(in.HoldsShards), cap(in.HoldsShards), in.HoldsShards[:min(len(in.HoldsShards), 4)])
	}
	if len(one.Holds) != spend.MaxShards || len(one.Flushes) != spend.MaxShards {
		t.Errorf("%d locks and %d flushes are kept, want %d", len(one.Holds), len(one.Flushes), spend.MaxShards)
	}
	if _, ok := parseRecord([]byte(`{"holds":{"shard":1}}`)); ok {
		t.Error("an object is taken for a list")
	}
}
