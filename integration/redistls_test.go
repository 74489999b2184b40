package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// tlsArgs make a Redis listen with TLS, too, and want a certificate of its clients.
func tlsArgs(c *testserver.Certificates, port int) []string {
	return []string{
		"--tls-port", fmt.Sprint(port), "--tls-ca-cert-file", c.CA, "--tls-cert-file", c.ServerCert, "--tls-key-file", c.ServerKey,
		"--tls-auth-clients", "yes",
	}
}

func TestRedisBehindTLSWithAClientCertificate(t *testing.T) {
	t.Parallel()
	c := testserver.NewCertificates(t)
	port := freePort(t)
	server := testserver.NewRedis(t, tlsArgs(c, port)...)
	s := stackOn(t, testserver.Postgres(t), fmt.Sprintf("rediss://:%s@127.0.0.1:%d", server.Password(), port))
	files := []string{
		"SPENDFLUSH_REDIS_TLS_CA_FILE=" + c.CA, "SPENDFLUSH_REDIS_TLS_CERT_FILE=" + c.ClientCert,
		"SPENDFLUSH_REDIS_TLS_KEY_FILE=" + c.ClientKey,
	}
	instances := s.startAll(2, files...)
	l := startLoad(t, instances, faultLoad())
	awaitMore(t, instances, "queue", 5)
	if strings.Contains(instances[0].stderr.String(), "ISN'T VERIFIED") {
		t.Error("a certificate that is verified is said not to be")
	}
	s.finish(instances, l)

	// Without the authority nothing goes to that server, and the cause is told.
	in := s.start("untrusting", files[1:]...)
	in.logged("certificate signed by unknown authority")
	in.stop(0)

	s.redis += "?skip_verify=true"
	lax := s.start("lax", files[1:]...)
	lax.logged("THE CERTIFICATE OF REDIS ISN'T VERIFIED")
	lax.stop(0)

	status, _, stderr := run(t, s.variables("SPENDFLUSH_REDIS_TLS_CA_FILE=/nonexistent"), "serve")
	if status != 2 || !strings.Contains(stderr, "SPENDFLUSH_REDIS_TLS_") || !strings.Contains(stderr, "/nonexistent") {
		t.Errorf("a file that isn't there: exit status %d\n%s", status, stderr)
	}
}

func TestAClusterBehindTLSFailsOver(t *testing.T) {
	t.Parallel()
	certificates := testserver.NewCertificates(t)
	cluster := testserver.NewRedisClusterTLS(t, certificates)
	s := stackOn(t, testserver.Postgres(t), cluster.URL())
	instances := s.startAll(2, "SPENDFLUSH_SHARDS=2", "SPENDFLUSH_LOCK_TTL=1s", "SPENDFLUSH_REDIS_TLS_CA_FILE="+certificates.CA,
		"SPENDFLUSH_REDIS_TLS_CERT_FILE="+certificates.ClientCert, "SPENDFLUSH_REDIS_TLS_KEY_FILE="+certificates.ClientKey)
	l := startLoad(t, instances, faultLoad())
	awaitFlushes(t, instances, "queue", 0, 3)
	killed := cluster.MasterOf(s.tag(0))
	if err := cluster.Servers[killed].Kill(); err != nil {
		t.Fatal(err)
	}
	cluster.MasterOf(s.tag(0), killed)
	awaitFlushes(t, instances, "queue", 0, 3)
	s.finish(instances, l)
}
