package integration

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// trusts has the clients of the stack trust the authorities of these certificates, and no other.
// Connections of before are not used again.
func (s *stack) trusts(certificates ...*testserver.Certificates) {
	s.t.Helper()
	roots := x509.NewCertPool()
	for _, c := range certificates {
		if !roots.AppendCertsFromPEM([]byte(readText(s.t, c.CA))) {
			s.t.Fatal("no certificate in " + c.CA)
		}
	}
	s.http.CloseIdleConnections()
	transport := s.http.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	s.http.Transport = transport
	s.t.Cleanup(transport.CloseIdleConnections)
}

// servedOverTLS returns the settings of an instance with the certificate, and has the clients of
// the stack trust it.
func (s *stack) servedOverTLS(c *testserver.Certificates) []string {
	s.t.Helper()
	s.trusts(c)
	return []string{"SPENDFLUSH_TLS_CERT_FILE=" + c.ServerCert, "SPENDFLUSH_TLS_KEY_FILE=" + c.ServerKey}
}

func TestTheAPIIsServedOverTLSAndANewCertificateCountsWithoutARestart(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	dir, old, renewed := t.TempDir(), testserver.NewCertificates(t), testserver.NewCertificates(t)
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	replaceFile(t, cert, readText(t, old.ServerCert))
	replaceFile(t, key, readText(t, old.ServerKey))
	s.trusts(old)
	in := s.start("private", "SPENDFLUSH_TLS_CERT_FILE="+cert, "SPENDFLUSH_TLS_KEY_FILE="+key)
	address, isTLS := strings.CutPrefix(in.url, "https://")
	if !isTLS {
		t.Fatalf("it is served at %s", in.url)
	}
	if status, body, _ := in.withToken(token, "POST", "/v1/updates?ack=committed", `{"spend":0.25,"team_id":"t"}`); status != http.StatusOK {
		t.Errorf("an update: %d %s", status, body)
	}

	// A browser gets a cookie that never travels openly, and that is good.
	status, body, header := in.withToken("", "POST", "/v1/session", `{"token":"`+token+`"}`)
	cookie := header.Get("Set-Cookie")
	if status != http.StatusNoContent || !strings.HasPrefix(cookie, "__Host-spendflush_session=") || !strings.Contains(cookie, "; Secure") {
		t.Errorf("%d %s, Set-Cookie: %s", status, body, cookie)
	}
	name, _, _ := strings.Cut(cookie, ";")
	if status, body, _ := in.withToken(name, "GET", "/v1/spend/team/t", ""); status != http.StatusOK || !strings.Contains(body, `"spend":"0.25"`) {
		t.Errorf("with the cookie: %d %s", status, body)
	}

	// Whoever speaks no TLS learns why, and nothing else.
	resp, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "HTTPS") {
		t.Errorf("without TLS: %d %s, %v", resp.StatusCode, text, err)
	}

	// Half of a new pair changes nothing, and is told. The whole of it counts.
	replaceFile(t, cert, readText(t, renewed.ServerCert))
	in.logged("the certificate can't be read again")
	s.trusts(old)
	if metrics := metricsOf(in); !strings.Contains(metrics, "spendflush_http_certificate_stale 1") {
		t.Errorf("it isn't told: %s", metrics)
	}
	replaceFile(t, key, readText(t, renewed.ServerKey))
	in.logged("the certificate was read again")
	s.trusts(renewed)
	metrics := metricsOf(in)
	if !strings.Contains(metrics, "spendflush_http_certificate_stale 0") || strings.Contains(metrics, "certificate_expires_timestamp_seconds 0") {
		t.Errorf("the new pair: %s", metrics)
	}
	s.trusts(old)
	if _, _, err := s.do("GET", in.url+"/healthz", "", nil); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("the old certificate is still served: %v", err)
	}
	s.trusts(renewed)
	in.stop(0)
}

// metricsOf returns what the instance tells of its certificate.
func metricsOf(in *instance) (lines string) {
	in.t.Helper()
	_, text := in.get("/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "spendflush_http_certificate_") {
			lines += line
		}
	}
	return lines
}

func TestAPairThatCannotBeServedEndsTheStartByName(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	one, other := testserver.NewCertificates(t), testserver.NewCertificates(t)
	for _, c := range []struct{ cert, key, want string }{
		{one.ServerCert, other.ServerKey, one.ServerCert + " and " + other.ServerKey},
		{one.ServerCert, one.ServerKey + ".gone", one.ServerKey + ".gone: no such file"},
		{one.ServerKey, one.ServerCert, "SPENDFLUSH_TLS_CERT_FILE, SPENDFLUSH_TLS_KEY_FILE: "},
		{one.ServerCert, "", "SPENDFLUSH_TLS_KEY_FILE: is not set; allowed: "},
		{"", one.ServerKey, "SPENDFLUSH_TLS_CERT_FILE: is not set; allowed: "},
	} {
		status, _, stderr := run(t, s.variables("SPENDFLUSH_TLS_CERT_FILE="+c.cert, "SPENDFLUSH_TLS_KEY_FILE="+c.key), "serve")
		if status != 2 || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "BEGIN") {
			t.Errorf("%q, %q: exit status %d, want %q in\n%s", c.cert, c.key, status, c.want, stderr)
		}
	}
}
