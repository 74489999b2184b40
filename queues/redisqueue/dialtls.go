package redisqueue

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
)

// TLS says how connections to Redis, and to its sentinels, are secured. The zero value trusts the
// certificates that the system trusts, and shows none.
type TLS struct {
	// CAFile holds the certificates, in PEM, that those of the servers must be signed by; "": those
	// of the system. It is read once.
	CAFile string

	// CertFile and KeyFile hold the client's certificate and key, in PEM; "": none. They are read
	// anew for each connection, so that they can be replaced.
	CertFile, KeyFile string

	// ServerName is what certificates are checked by; "": each server's by the host name or address
	// that it is reached at.
	ServerName string
}

// Unverified says whether the client takes any certificate, because the URL has skip_verify=true.
func Unverified(client redis.UniversalClient) bool {
	var config *tls.Config
	switch c := client.(type) {
	case *redis.Client:
		config = c.Options().TLSConfig
	case *redis.ClusterClient:
		config = c.Options().TLSConfig
	}
	return config != nil && config.InsecureSkipVerify
}

// tlsConfig returns nil if the URL doesn't ask for TLS.
func (to *target) tlsConfig(t TLS) (*tls.Config, error) {
	t = TLS{
		CAFile:     cmp.Or(to.files.CAFile, t.CAFile),
		CertFile:   cmp.Or(to.files.CertFile, t.CertFile),
		KeyFile:    cmp.Or(to.files.KeyFile, t.KeyFile),
		ServerName: cmp.Or(to.files.ServerName, t.ServerName),
	}
	if !to.tls {
		if to.lax || t != (TLS{}) {
			return nil, errors.New("files or a server name for TLS, or skip_verify, but no TLS: it must begin with rediss")
		}
		return nil, nil
	}

	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: to.lax}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s: it holds no certificate in PEM", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("a client certificate and its key go together: one of the two files isn't named")
	}
	if t.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// dialer returns a function that dials, with TLS if a configuration is given. It obeys its context,
// as go-redis's own doesn't where there is TLS. Each server is checked by the name that it is
// dialed at, unless the configuration has one.
func dialer(timeout time.Duration, config *tls.Config) dialFunc {
	plain := &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	if config == nil {
		return plain.DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return (&tls.Dialer{NetDialer: plain, Config: config}).DialContext(ctx, network, address)
	}
}
