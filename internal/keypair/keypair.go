// Package keypair serves TLS with a certificate and a key that files have, and takes up new ones while the program runs.
package keypair

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/spendflush/spendflush/internal/reread"
)

// Pair is a certificate with its key. Its methods are safe for concurrent use, but Follow runs once.
type Pair struct {
	certFile, keyFile string

	now   atomic.Pointer[tls.Certificate]
	files *reread.Source[texts]
}

// texts are what the two files have.
type texts struct{ cert, key string }

// Open reads the files, which are in PEM: the certificate first, then those that lead to its authority, and in the other one
// the key. Errors name the file, and nothing of the key.
func Open(certFile, keyFile string) (p *Pair, err error) {
	p = &Pair{certFile: certFile, keyFile: keyFile}
	if p.files, err = reread.Open(p.read, p.take); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Pair) read() (found texts, err error) {
	if found.cert, err = reread.Text(p.certFile); err == nil {
		found.key, err = reread.Text(p.keyFile)
	}
	if err != nil {
		return texts{}, err
	}
	return found, nil
}

// take serves the pair from now on. A key of another certificate is an error.
func (p *Pair) take(found texts) error {
	pair, err := tls.X509KeyPair([]byte(found.cert), []byte(found.key))
	if err != nil {
		return fmt.Errorf("%s and %s: %w", p.certFile, p.keyFile, err)
	}
	if ends := pair.Leaf.NotAfter; p.now.Load() != nil && time.Now().After(ends) {
		return fmt.Errorf("%s: the certificate has expired at %s", p.certFile, ends.UTC().Format(time.RFC3339))
	}
	p.now.Store(&pair)
	return nil
}

// Config serves the pair as it is when a client connects, over HTTP/1.1.
func (p *Pair) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.now.Load(), nil
		},
	}
}

// Expires returns when the certificate that is served expires.
func (p *Pair) Expires() time.Time { return p.now.Load().Leaf.NotAfter }

// IsStale says whether the files have a pair that can't be taken, or can't be read: the pair of before is served.
func (p *Pair) IsStale() bool { return p.files.IsStale() }

// Follow reads the files every second, until ctx ends. What can't be read, doesn't go together or has expired changes
// nothing, and is logged once. Of a nil Pair it returns at once.
func (p *Pair) Follow(ctx context.Context, log *slog.Logger) {
	if p != nil {
		reread.Follow(ctx, func() { p.check(log) })
	}
}

// check reads the files once.
func (p *Pair) check(log *slog.Logger) {
	taken, err := p.files.Look()
	switch {
	case err != nil:
		log.Error("the certificate can't be read again: that of before goes on being served", "error", err, "expires", p.Expires())
	case taken:
		log.Info("the certificate was read again", "file", p.certFile, "expires", p.Expires())
	}
}
