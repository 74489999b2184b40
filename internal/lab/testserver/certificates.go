package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificates are files in PEM: a certificate authority, and certificates with their keys that it
// has signed.
type Certificates struct {
	CA                    string
	ServerCert, ServerKey string // for localhost, 127.0.0.1, redis.example and spend.example
	ClientCert, ClientKey string
}

// NewCertificates makes an authority of its own at each call, so that the certificates of two calls
// don't go together.
func NewCertificates(t testing.TB) *Certificates {
	t.Helper()
	return newCertificates(t, time.Now().Add(24*time.Hour))
}

// NewExpiredCertificates makes certificates that have expired an hour ago. Their authority hasn't.
func NewExpiredCertificates(t testing.TB) *Certificates {
	t.Helper()
	return newCertificates(t, time.Now().Add(-time.Hour))
}

func newCertificates(t testing.TB, expire time.Time) *Certificates {
	t.Helper()
	dir := privateDir(t)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key := newKey(t)
	c := &Certificates{CA: writePEM(t, filepath.Join(dir, "ca.pem"), "CERTIFICATE", sign(t, authority, authority, key, key))}

	issue := func(name string, serial int64, use x509.ExtKeyUsage) (cert, certKey string) {
		own := newKey(t)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotAfter: expire,
			ExtKeyUsage: []x509.ExtKeyUsage{use}, DNSNames: []string{"localhost", "redis.example", "spend.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		secret, err := x509.MarshalECPrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		return writePEM(t, filepath.Join(dir, name+".pem"), "CERTIFICATE", sign(t, template, authority, own, key)),
			writePEM(t, filepath.Join(dir, name+".key"), "EC PRIVATE KEY", secret)
	}
	c.ServerCert, c.ServerKey = issue("server", 2, x509.ExtKeyUsageServerAuth)
	c.ClientCert, c.ClientKey = issue("client", 3, x509.ExtKeyUsageClientAuth)
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t testing.TB, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
