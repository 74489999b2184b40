package keypair

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// files are a certificate and its key where a program finds them.
type files struct{ cert, key string }

func newFiles(t *testing.T) files {
	t.Helper()
	dir := t.TempDir()
	return files{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
}

func replace(t *testing.T, path, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func opened(t *testing.T, at files, from *testserver.Certificates) *Pair {
	t.Helper()
	replace(t, at.cert, from.ServerCert)
	replace(t, at.key, from.ServerKey)
	pair, err := Open(at.cert, at.key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// serves says whether a client that trusts the authority of the certificates is content with what is served.
func serves(t *testing.T, p *Pair, c *testserver.Certificates) error {
	t.Helper()
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	defer func() { <-ended }()
	defer raw.Close()
	go func() {
		defer close(ended)
		if conn, err := raw.Accept(); err == nil {
			defer conn.Close()
			io.Copy(io.Discard, tls.Server(conn, p.Config())) // until the client has gone
		}
	}()
	client, err := tls.Dial("tcp", raw.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		return err
	}
	defer client.Close()
	if protocol := client.ConnectionState().NegotiatedProtocol; protocol != "http/1.1" {
		return errors.New("the protocol is " + protocol)
	}
	return nil
}

func TestANewPairIsServedOnceItIsWholeAndHalfOfOneNever(t *testing.T) {
	at, old, renewed := newFiles(t), testserver.NewCertificates(t), testserver.NewCertificates(t)
	p := opened(t, at, old)
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))

	replace(t, at.cert, renewed.ServerCert)
	for range 4 {
		p.check(log)
		if err := serves(t, p, old); err != nil {
			t.Errorf("with half of a new pair: %v", err)
		}
	}
	if !p.IsStale() || strings.Count(text.String(), "level=ERROR") != 1 || !strings.Contains(text.String(), at.key) {
		t.Errorf("stale: %t; the log is\n%s", p.IsStale(), &text)
	}
	replace(t, at.key, renewed.ServerKey)
	p.check(log)
	if serves(t, p, renewed) == nil {
		t.Error("it is taken at the first look: a file may be half written")
	}
	p.check(log)
	if err := serves(t, p, renewed); err != nil || p.IsStale() || strings.Count(text.String(), "was read again") != 1 {
		t.Errorf("%v, stale: %t; the log is\n%s", err, p.IsStale(), &text)
	}
}

func TestAPairThatCannotBeReadOrHasExpiredChangesNothingAndIsTold(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, at files){
		"missing": func(t *testing.T, at files) { os.Remove(at.key) },
		"empty": func(t *testing.T, at files) {
			os.Truncate(at.cert, 0)
			os.Truncate(at.key, 0)
		},
		"expired": func(t *testing.T, at files) {
			expired := testserver.NewExpiredCertificates(t)
			replace(t, at.cert, expired.ServerCert)
			replace(t, at.key, expired.ServerKey)
		},
	} {
		t.Run(what, func(t *testing.T) {
			at, from := newFiles(t), testserver.NewCertificates(t)
			p := opened(t, at, from)
			var text bytes.Buffer
			log := slog.New(slog.NewTextHandler(&text, nil))
			spoil(t, at)
			for range 4 {
				p.check(log)
			}
			if err := serves(t, p, from); err != nil || !p.IsStale() {
				t.Errorf("%v, stale: %t", err, p.IsStale())
			}
			if strings.Count(text.String(), "level=ERROR") != 1 || !strings.Contains(text.String(), filepath.Dir(at.cert)) || strings.Contains(text.String(), "BEGIN") {
				t.Errorf("the log is\n%s", &text)
			}
			replace(t, at.cert, from.ServerCert) // as it was
			replace(t, at.key, from.ServerKey)
			p.check(log)
			p.check(log)
			if err := serves(t, p, from); err != nil || p.IsStale() {
				t.Errorf("mended: %v, stale: %t", err, p.IsStale())
			}
		})
	}
}

func TestAKeyOfAnotherCertificateIsNamedAtTheStart(t *testing.T) {
	at, one, other := newFiles(t), testserver.NewCertificates(t), testserver.NewCertificates(t)
	replace(t, at.cert, one.ServerCert)
	replace(t, at.key, other.ServerKey)
	if _, err := Open(at.cert, at.key); err == nil || !strings.Contains(err.Error(), at.cert) || !strings.Contains(err.Error(), at.key) {
		t.Error(err)
	}
	if _, err := Open(at.cert, at.key+"x"); err == nil || !strings.Contains(err.Error(), at.key+"x") {
		t.Error(err)
	}
}

func TestConnectionsOfBeforeOutliveANewPair(t *testing.T) {
	at, old, renewed := newFiles(t), testserver.NewCertificates(t), testserver.NewCertificates(t)
	p := opened(t, at, old)
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })}
	go server.Serve(tls.NewListener(raw, p.Config()))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	var peers []string
	for range 2 {
		resp, err := client.Get("https://" + raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "HTTP/1.1" {
			t.Errorf("%q, %v", body, err)
		}
		peers = append(peers, string(resp.TLS.PeerCertificates[0].Raw))
		replace(t, at.cert, renewed.ServerCert)
		replace(t, at.key, renewed.ServerKey)
		p.check(slog.New(slog.DiscardHandler))
		p.check(slog.New(slog.DiscardHandler))
	}
	if peers[0] != peers[1] {
		t.Error("a connection that was open was not used again")
	}
	if err := serves(t, p, renewed); err != nil {
		t.Error(err)
	}
}
