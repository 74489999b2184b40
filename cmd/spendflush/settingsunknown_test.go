package main

import (
	"errors"
	"strings"
	"testing"
)

func TestAVariableThatLooksLikeOursEndsTheStartWithTheNearestName(t *testing.T) {
	for name, nearest := range map[string]string{
		"SPENDFLUSH_SEALINTERVAL": "SPENDFLUSH_SEAL_INTERVAL", "SPENDFLUSH_SHARD": "SPENDFLUSH_SHARDS", "SPENDFLUSH_TOKEN": "SPENDFLUSH_TOKENS",
		"SPENDFLUSH_TOKEN_FILE": "SPENDFLUSH_TOKENS_FILE", "SPENDFLUSH_DRAIN_DELAYS": "SPENDFLUSH_DRAIN_DELAY", "SPENDFLUSH_QUEUE_KEYS_FILE": "SPENDFLUSH_QUEUE_KEY_FILE",
		"SPENDFLUSH_PORT_4180": "", "SPENDFLUSH_PORTS": "", "SPENDFLUSH_SERVICE": "", "SPENDFLUSH_SHARDS_FILE": "SPENDFLUSH_SHARDS", "SPENDFLUSH_": "",
	} {
		_, err := load([]string{name + "=secret-value", "SPENDFLUSH_SHARDS=2"}, 0)
		usage, ok := errors.AsType[usageError](err)
		if !ok {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := usage.Error(); !strings.Contains(got, "  "+name+": there is no such setting; the nearest is "+nearest) || strings.Contains(got, "secret-value") ||
			nearest != "" && !strings.Contains(got, nearest+", and") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestWhatKubernetesSetsForAServiceOfThatNameIsLetThrough(t *testing.T) {
	environ := []string{"SPENDFLUSH_UNUSED=  ", "SPENDFLUSH_TEST_ANYTHING=1", "PATH=/bin", "SPENDFLUSHES=1"}
	for _, name := range []string{
		"SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "SERVICE_PORT_HTTP_METRICS", "PORT", "PORT_4180_TCP", "PORT_4180_TCP_PROTO",
		"PORT_4180_TCP_PORT", "PORT_4180_TCP_ADDR", "PORT_53_UDP", "PORT_9_SCTP_ADDR",
	} {
		environ = append(environ, "SPENDFLUSH_"+name+"=tcp://10.0.0.1:4180")
	}
	if _, err := load(environ, 0); err != nil {
		t.Error(err)
	}
}
