package main

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer is written to by all goroutines of an instance.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// hostilePasswords hold what means something in a URL, and letters that no message has in this
// order.
var hostilePasswords = []string{
	"p@ss/w#rd%", "qzx#wvu", "qzx/wvu", "qzx?wvu", "qzx@wvu", "qzx:wvu", "qzx%wvu", "qzx wvu", "qzx[wvu", "qzx]wvu", `qzx\wvu`,
	"qzx,wvu@jkq", "qzx&wvu=jkq", "#qzxwvu", "/qzxwvu", "?qzxwvu", "%zzqzxwvu", "719/qzx@wvu", "719#qzxwvu", "719?qzx=wvu", "719/qzx",
	"qzx\twvu", "qzx\nwvu", "qzx\x7fwvu", "qzx'wvu", `qzx"wvu`, "qzx%0awvu", "qzx://wvu@jkq",
}

func TestNoPieceOfAPasswordThatIsNotEncodedIsShownByAnyCommand(t *testing.T) {
	const postgres, redis = "postgres://u:PASSWORD@127.0.0.1:1/db?sslmode=disable", "redis://:PASSWORD@127.0.0.1:1/0"
	with := func(url, password string) string { return strings.Replace(url, "PASSWORD", password, 1) }
	for name, args := range map[string][]string{
		"serve": nil, "migrate up": nil, "migrate status": nil, "flush": nil, "status": nil, "audit": nil, "books": nil,
		"books new-id": nil, "quarantine list": nil, "quarantine show": {"1"}, "quarantine apply": {"1"}, "quarantine drop": {"1"},
	} {
		if everyCommand()[name] == nil {
			t.Fatalf("there is no command %q", name)
		}
		for _, password := range hostilePasswords {
			for _, urls := range [][2]string{{with(postgres, password), with(redis, "x")}, {with(postgres, "x"), with(redis, password)}} {
				said := sayWith(t, urls, append(strings.Fields(name), args...))
				if piece := pieceIn(said, password); piece != "" {
					t.Errorf("%s with %q in %q: %q is shown:\n%.600s", name, password, urls, piece, said)
				}
			}
		}
	}
}

// sayWith runs a command on servers that don't answer, and returns all that it writes.
func sayWith(t *testing.T, urls [2]string, args []string) string {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // serve would wait for Postgres
	defer cancel()
	var said lockedBuffer
	p := &program{
		environ: []string{
			"DATABASE_URL=" + urls[0], "REDIS_URL=" + urls[1], "SPENDFLUSH_LISTEN=127.0.0.1:0", "SPENDFLUSH_DRAIN_DELAY=0s",
			"SPENDFLUSH_SHUTDOWN_TIMEOUT=100ms", "SPENDFLUSH_LOG_LEVEL=debug", "SPENDFLUSH_INSTANCE=one",
		},
		stdin: strings.NewReader(""), stdout: &said, stderr: &said,
	}
	p.run(ctx, args)
	if args[0] != "serve" && said.String() == "" {
		t.Errorf("%q says nothing", args)
	}
	return said.String()
}

// numbers are what may have any three digits in a row by chance: times, durations, UUIDs, and ports
// of this machine.
var numbers = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|"[0-9.hmnµ]+s"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|127\.0\.0\.1:[0-9]+`)

// pieceIn returns three characters in a row of the password that the text holds, but for its
// numbers; "" if there are none.
func pieceIn(text, password string) string {
	text = numbers.ReplaceAllString(text, "…")
	for i := 0; i+3 <= len(password); i++ {
		if strings.Contains(text, password[i:i+3]) {
			return password[i : i+3]
		}
	}
	return ""
}
