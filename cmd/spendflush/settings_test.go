package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/httpapi"
)

func TestEveryWrongSettingIsNamedAtOnceWithItsValueAndWhatIsAllowed(t *testing.T) {
	_, err := load([]string{
		"SPENDFLUSH_SEAL_INTERVAL=soon", "SPENDFLUSH_SHARDS=65", "SPENDFLUSH_MAX_KEYS=0", "SPENDFLUSH_LOG_FORMAT=xml",
		"SPENDFLUSH_LISTEN=0.0.0.0:4180", "SPENDFLUSH_ROLLUP_DIMENSIONS=model,colour", "SPENDFLUSH_LOCK_TTL=1ms",
		"USE_REDIS_TRANSACTION_BUFFER=perhaps", "SPENDFLUSH_LOG_LEVEL=loud", "SPENDFLUSH_QUEUE_MAX_BYTES=12",
		"SPENDFLUSH_AUDIT_INTERVAL=-1h", "SPENDFLUSH_BASE_PATH=spend", "SPENDFLUSH_TLS_KEY_FILE=/run/key",
	}, needDatabase|needQueue)
	var usage usageError
	if !errors.As(err, &usage) {
		t.Fatalf("got %v, want a usage error", err)
	}
	for _, want := range []string{
		`SPENDFLUSH_SEAL_INTERVAL: "soon" is not allowed; allowed: 1ms to 1m`,
		`SPENDFLUSH_SHARDS: "65"`, `SPENDFLUSH_MAX_KEYS: "0"`, `SPENDFLUSH_LOG_FORMAT: "xml"`,
		`SPENDFLUSH_LISTEN: "0.0.0.0:4180" is not allowed`, `SPENDFLUSH_ROLLUP_DIMENSIONS: "model,colour"`,
		`SPENDFLUSH_LOCK_TTL: "1ms"`, `USE_REDIS_TRANSACTION_BUFFER: "perhaps"`, `SPENDFLUSH_LOG_LEVEL: "loud"`,
		`SPENDFLUSH_QUEUE_MAX_BYTES: "12"`, `SPENDFLUSH_AUDIT_INTERVAL: "-1h"`, "DATABASE_URL: is not set",
		`SPENDFLUSH_BASE_PATH: "spend" is not allowed; allowed: ` + httpapi.BasePathAllowed, "SPENDFLUSH_TLS_CERT_FILE: is not set; allowed: a certificate in PEM",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in\n%v", want, err)
		}
	}
}

func TestQueueKeysAreRandomBytesInHexadecimalAndNeverShown(t *testing.T) {
	good, other := strings.Repeat("00112233445566778899aabbccddeeff", 2), strings.Repeat("ffeeddccbbaa99887766554433221100", 3)
	set := func(key, accepted string) (*settings, error) {
		return load([]string{"SPENDFLUSH_QUEUE_KEY=" + key, "SPENDFLUSH_QUEUE_KEY_ACCEPTED=" + accepted}, 0)
	}
	for _, c := range []struct {
		key, accepted string
		bytes, also   int
		unsigned      bool
	}{{"", "", 0, 0, false}, {good, "", 32, 0, false}, {other, good, 48, 32, false}, {good, "unsigned", 32, 0, true}} {
		s, err := set(c.key, c.accepted)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if k := s.batchKeys(); len(k.Key) != c.bytes || len(k.Accepted) != c.also || k.Unsigned != c.unsigned {
			t.Errorf("%+v: %d and %d bytes, unsigned %v", c, len(k.Key), len(k.Accepted), k.Unsigned)
		}
	}
	for _, c := range [][3]string{
		{good[:62], "", "SPENDFLUSH_QUEUE_KEY:"}, {strings.Repeat("01", 32), "", "SPENDFLUSH_QUEUE_KEY:"}, {"not-hexadecimal" + good, "", "SPENDFLUSH_QUEUE_KEY:"},
		{"unsigned", "", "SPENDFLUSH_QUEUE_KEY:"}, {"", good, "SPENDFLUSH_QUEUE_KEY_ACCEPTED:"}, {"", "unsigned", "SPENDFLUSH_QUEUE_KEY_ACCEPTED:"},
		{good, good[:62], "SPENDFLUSH_QUEUE_KEY_ACCEPTED:"},
	} {
		_, err := set(c[0], c[1])
		if err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%v: %v", c, err)
		} else if strings.Contains(err.Error(), good[:16]) || strings.Contains(err.Error(), "0101") {
			t.Errorf("the key is shown: %v", err)
		}
	}
}

func TestRedisMustBeNamedOrSwitchedOffSoThatNothingIsDroppedInSilence(t *testing.T) {
	if _, err := load([]string{"DATABASE_URL=postgres://x"}, needDatabase|needQueue); err == nil || !strings.Contains(err.Error(), "REDIS_URL: is not set") {
		t.Errorf("without Redis: %v", err)
	}
	if _, err := load([]string{"DATABASE_URL=postgres://x", "USE_REDIS_TRANSACTION_BUFFER=false"}, needDatabase|needQueue); err != nil {
		t.Errorf("switched off: %v", err)
	}
}

func TestSecretsAreNotShownInErrors(t *testing.T) {
	_, err := load([]string{"DATABASE_URL=postgres://x", "REDIS_URL=redis://x", "SPENDFLUSH_TOKENS=short-secret"}, needDatabase)
	if err == nil || strings.Contains(err.Error(), "short-secret") || !strings.Contains(err.Error(), "SPENDFLUSH_TOKENS") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyLoopbackIsListenedOnWithoutTokens(t *testing.T) {
	for listen, allowed := range map[string]bool{
		"127.0.0.1:4180": true, "[::1]:4180": true, "localhost:0": true,
		":4180": false, "0.0.0.0:4180": false, "10.1.2.3:80": false, "example.org:80": false, "127.0.0.1": false,
	} {
		environ := []string{"SPENDFLUSH_LISTEN=" + listen}
		if _, err := load(environ, 0); (err == nil) != allowed {
			t.Errorf("%s without tokens: %v", listen, err)
		}
		if _, err := load(append(environ, "SPENDFLUSH_TOKENS=0123456789abcdef"), 0); err != nil && listen != "127.0.0.1" {
			t.Errorf("%s with tokens: %v", listen, err)
		}
	}
}

func TestTokensThatCouldBeGuessedAreRefused(t *testing.T) {
	for token, allowed := range map[string]bool{
		"0123456789abcdef": true, "01234567012345670": true, "aaaaaaaaaaaaaaaa": false, "ababababababababababab": false,
		"0123456012345601": false, "0123456789abcde": false, "with a blank in it": false,
	} {
		_, err := load([]string{"SPENDFLUSH_TOKENS=another-0123456789," + token}, 0)
		if (err == nil) != allowed || err != nil && (strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "8 of them different")) {
			t.Errorf("%s: %v", token, err)
		}
	}
}

func TestHostsAreNamesAndAddressesWithoutPorts(t *testing.T) {
	for hosts, allowed := range map[string]bool{
		"spend.example": true, "spend.example,10.0.0.5,fd00::5": true, "spend.example:4180": false, "http://spend.example": false,
		"*.example": false, "a,,b": false, "[fd00::5]": false, "a b": false,
	} {
		if _, err := load([]string{"SPENDFLUSH_HOSTS=" + hosts}, 0); (err == nil) != allowed {
			t.Errorf("%s: %v", hosts, err)
		}
	}
}

func TestReadersFlushesAndLocksAllHaveConnectionsWhateverIsSet(t *testing.T) {
	for connections := 4; connections <= 100; connections++ {
		for shards := 1; shards <= 64; shards++ {
			s := &settings{MaxConnections: connections, Shards: shards}
			reads, flushes, locks, reports := s.readConnections(), s.flushConnections(), s.lockConnections(), s.maxReports()
			if reads+flushes+locks != connections || reads < 2 || flushes < 1 || locks < 1 {
				t.Fatalf("%d connections, %d shards: %d to read, %d to flush, %d for locks", connections, shards, reads, flushes, locks)
			}
			if reports < 1 || reports >= reads {
				t.Fatalf("%d connections to read: %d reports at once leave none to look-ups", reads, reports)
			}
			if reads > 2 && flushes != shards+2 {
				t.Fatalf("%d connections, %d shards: %d to flush", connections, shards, flushes)
			}
		}
	}
}

func TestTrustedProxiesAreAddressesAndNetworks(t *testing.T) {
	s := &settings{TrustedProxies: []string{"192.0.2.1", "2001:db8::/32", "::ffff:192.0.2.2"}}
	networks, err := s.trustedProxies()
	if err != nil || fmt.Sprint(networks) != "[192.0.2.1/32 2001:db8::/32 192.0.2.2/32]" {
		t.Errorf("%v, %v", networks, err)
	}
	for _, wrong := range []string{"proxy", "192.0.2.1:80", "192.0.2.0/33", ""} {
		if _, err := (&settings{TrustedProxies: []string{wrong}}).trustedProxies(); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

func TestTheListenerOfTheMetricsIsAnAddressOfItsOwn(t *testing.T) {
	const set = "SPENDFLUSH_METRICS_LISTEN="
	for _, good := range []string{"", "127.0.0.1:9464", ":9464", "[::1]:9464", "127.0.0.1:0"} {
		if _, err := load([]string{set + good}, 0); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:4180"} {
		if _, err := load([]string{set + bad}, 0); err == nil || !strings.Contains(err.Error(), `SPENDFLUSH_METRICS_LISTEN: "`+bad+`" is not allowed`) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
