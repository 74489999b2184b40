package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	spendclient "github.com/spendflush/spendflush/client"
	"github.com/spendflush/spendflush/internal/lab/faultproxy"
	"github.com/spendflush/spendflush/spend"
)

const clientUpdates = 3000

// clientRig is two instances, each behind a proxy that cuts.
type clientRig struct {
	*stack
	instances []*instance
	proxies   []*faultproxy.Proxy
	urls      []string
}

func newClientRig(t *testing.T) *clientRig {
	t.Helper()
	x := &clientRig{stack: newStack(t)}
	x.instances = x.startAll(2, "SPENDFLUSH_SEAL_INTERVAL=20ms", "SPENDFLUSH_FLUSH_INTERVAL=50ms")
	for _, in := range x.instances {
		p := faultproxy.New(t, strings.TrimPrefix(in.url, "http://"))
		x.proxies, x.urls = append(x.proxies, p), append(x.urls, "http://"+p.Addr())
	}
	return x
}

// disturb cuts replies and connections, refuses connections and kills an instance, some times, or
// until stop is closed. Only the other one is there then.
func (x *clientRig) disturb(stop <-chan struct{}) {
	pause := func(d time.Duration) (stopped bool) {
		select {
		case <-stop:
			return true
		case <-time.After(d):
			return false
		}
	}
	for round := range 16 {
		p := x.proxies[round%2]
		switch round % 4 {
		case 0, 1:
			p.CutReplies("POST", 2)
		case 2:
			p.Refuse(true)
			pause(50 * time.Millisecond)
			p.Refuse(false)
		case 3:
			p.Drop()
		}
		if round == 8 {
			x.instances[0].kill()
		}
		if pause(400 * time.Millisecond) {
			break
		}
	}
	for _, p := range x.proxies {
		p.CutReplies("", 0)
	}
}

// check sees that each update is in the books once, and no other.
func (x *clientRig) check(want int) {
	x.t.Helper()
	cut := x.proxies[0].Cut() + x.proxies[1].Cut()
	if cut == 0 {
		x.t.Error("no reply was cut")
	}
	const books = "SELECT coalesce(sum(successful_requests), 0)::bigint FROM spendflush.rollup"
	eventually(x.t, "all is committed", func() string {
		if n := x.number(books); n < int64(want) {
			return fmt.Sprintf("%d of %d updates", n, want)
		}
		return ""
	})
	if n, amount := x.number(books), x.number("SELECT (sum(spend) * 1e12)::bigint FROM spendflush.rollup"); n != int64(want) || amount != int64(want) {
		x.t.Errorf("%d updates of %d parts of a dollar are in the books; want %d", n, amount, want)
	}
	x.t.Logf("%d updates, %d replies cut", want, cut)
	x.audit()
}

func TestTheClientInGoCountsEachUpdateOnceBehindAProxyThatCuts(t *testing.T) {
	t.Parallel()
	x := newClientRig(t)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); x.disturb(stop) }()
	refused := make(chan string, 10)
	c, err := spendclient.New(spendclient.Options{
		URLs: x.urls, Token: token, MaxBatch: 40, Interval: 50 * time.Millisecond, Timeout: 4 * time.Second,
		Refused: func(u spend.Update, reason error) { refused <- u.ID + " " + reason.Error() },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range clientUpdates {
		u := spend.Update{Series: spend.Series{APIKey: fmt.Sprint("key-", i%7), Tags: []string{"b", "a"}}}
		if u.Spend, err = spend.ParseAmount("0.000000000001"); err == nil {
			err = c.Record(&u)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	close(stop)
	<-ended
	if len(refused) > 0 {
		t.Error(<-refused)
	}
	x.check(clientUpdates)
}

func TestTheClientInPythonCountsEachUpdateOnceBehindAProxyThatCuts(t *testing.T) {
	t.Parallel()
	newClientRig(t).script("python3", "record.py")
}

func TestTheClientInJavaScriptCountsEachUpdateOnceBehindAProxyThatCuts(t *testing.T) {
	t.Parallel()
	newClientRig(t).script("node", "record.mjs")
}

// script runs a script that records through a client, first disturbed until all is sent, then one
// that leaves it to the end of its process.
func (x *clientRig) script(program, name string) {
	t := x.t
	t.Helper()
	clients, err := filepath.Abs("../clients")
	if err != nil {
		t.Fatal(err)
	}
	record := func(updates int, exit string) (output string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, filepath.Join("testdata", "clients", name))
		cmd.Env = append(cmd.Environ(), "CLIENTS="+clients, "URLS="+strings.Join(x.urls, ","), "TOKEN="+token, fmt.Sprint("UPDATES=", updates), "EXIT="+exit,
			"PYTHONDONTWRITEBYTECODE=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s%s", name, err, &stdout, &stderr)
		}
		return stdout.String()
	}

	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); x.disturb(stop) }()
	var told struct {
		Left    int
		Refused []string
		Full    int
	}
	output := record(clientUpdates, "")
	close(stop)
	<-ended
	if err := json.Unmarshal([]byte(output), &told); err != nil || told.Left != 0 || len(told.Refused) != 1 || !strings.Contains(told.Refused[0], "spend") || told.Full != 1 {
		t.Errorf("%+v, %v: %s", told, err, output)
	}
	record(100, "at once")
	x.check(clientUpdates + 1 + 101) // and the one of the small client, each time
}
