package integration

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestMetricsCanBeHadWithoutATokenFromAListenerOfTheirOwn(t *testing.T) {
	s := newStack(t)
	in := s.start("scraped", "SPENDFLUSH_METRICS_LISTEN=127.0.0.1:0")
	line := in.logged("metrics without a token")
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), "spendflush_build_info{") {
		t.Errorf("%s: status %d, %v: %.300s", line, resp.StatusCode, err, text)
	}
	in.stop(0)
}

func TestAnInstanceWhoseMetricsCanNotBeServedSaysWhichAddressIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	in := newStack(t).launch("refused", "SPENDFLUSH_METRICS_LISTEN="+address)
	in.logged("SPENDFLUSH_METRICS_LISTEN: listen tcp " + address)
	if status := in.wait(); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
}
