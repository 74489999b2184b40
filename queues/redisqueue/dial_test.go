package redisqueue_test

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/internal/servers"
	"github.com/spendflush/spendflush/queues/redisqueue"
)

func TestABadURLIsRefusedWithoutShowingItsPassword(t *testing.T) {
	for _, url := range []string{
		"", "hunter2", "hunter2@host", "localhost:6379", "http://:hunter2@host", "REDIS://:hunter2@host",
		"redis://:hunter2@host:port", "redis://:hunter2@host:99999999", "redis://:hunter2@host/x", "redis://:hunter2@host/0/1",
		"redis://:hunter2@host?unknown=1", "redis://:hunter2@host?pool_size=many", "redis://:hunter2@host?cluster=maybe",
		"redis://:hun/hunter2@host", "redis://:hun?hunter2@host", "redis://:hun#hunter2@host", "redis://:hun%hunter2@host",
		"redis://:hunter2@host:1,:hunter2@other:1", "redis://:hunter2@host,,other", "redis://:hunter2@a:1,b:1/1",
		"redis://:hunter2@a:1?cluster=true&db=1", "unix://:hunter2@", "unix://:hunter2@/sock?cluster=true",
		"redis://:hunter2@[::1", "redis://:hun ter2\x00hunter2@host", "redis://:1@host/hunter2@x",
		"redis://:hunter2@a:1,b:1?db=1", "redis://:hunter2@a:1,b:1?read_only=true", "redis://:hunter2@host?skip_verify=true",
		"redis://:hunter2@host?tls_ca_file=/x", "rediss://:hunter2@host?skip_verify=maybe", "rediss://:hunter2@host?tls_ca_file=/nonexistent",
		"rediss://:hunter2@host?tls_cert_file=/nonexistent", "rediss://:hunter2@host?tls_cert_file=/nonexistent&tls_key_file=/nonexistent",
		"redis+sentinel://:hunter2@a,b", "redis+sentinel://:hunter2@a,b/", "redis+sentinel://:hunter2@a/NAME/x",
		"redis+sentinel://:hunter2@a/NAME/1/2", "redis+sentinel://:hunter2@a/NAME?master_name=NAME", "redis+sentinel://:hunter2@a/NAME?cluster=true",
		"redis://host?master_name=NAME&password=hunter2&db=hunter2", "redis://:hunter2@a:1?master_name=", "unix://:hunter2@/s?master_name=NAME",
		"redis+sentinel://a/NAME?sentinel_password=hunter2&max_retries=hunter2", "redis://:hunter2@a?master_name=NAME&replica_only=true",
		"redis://:hunter2@a?master_name=NAME&addr=b:port", "redis+sentinel:///NAME",
	} {
		client, err := redisqueue.Dial(url)
		if err == nil {
			t.Errorf("%q was taken", url)
			_ = client.Close()
			continue
		}
		if !errors.Is(err, redisqueue.ErrURL) {
			t.Errorf("%q: the error doesn't wrap ErrURL: %v", url, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error shows the password: %v", url, err)
		}
	}
}

func TestEveryKindOfURLIsUnderstood(t *testing.T) {
	for _, test := range []struct {
		url       string
		addrs     []string
		db        int
		user, pw  string
		tls       string // name that certificates are checked by; "-" for no TLS
		clustered bool
	}{
		{"redis://host", []string{"host:6379"}, 0, "", "", "-", false},
		{"redis://:p%40%2F%3A%2C@host:1/3", []string{"host:1"}, 3, "", "p@/:,", "-", false},
		{"redis://u:p,q@host:1", []string{"host:1"}, 0, "u", "p,q", "-", false},
		{"rediss://u:p@host:1?db=2", []string{"host:1"}, 2, "u", "p", "", false},
		{"rediss://u:p@host:1?tls_server_name=other", []string{"host:1"}, 0, "u", "p", "other", false},
		{"redis://[::1]:1", []string{"[::1]:1"}, 0, "", "", "-", false},
		{"unix:///run/redis.sock?db=2", []string{"/run/redis.sock"}, 2, "", "", "-", false},
		{"unix://u:p@/run/redis.sock", []string{"/run/redis.sock"}, 0, "u", "p", "-", false},
		{"redis://u:p@a:1,b:2,c", []string{"a:1", "b:2", "c:6379"}, 0, "u", "p", "-", true},
		{"rediss://u:p@a:1,[::1]:2/0", []string{"a:1", "[::1]:2"}, 0, "u", "p", "", true},
		{"redis://a:1?cluster=true&pool_size=3", []string{"a:1"}, 0, "", "", "-", true},
		{"redis://u:p@a:1?cluster=true&addr=b:2&addr=[::1]:3", []string{"a:1", "b:2", "[::1]:3"}, 0, "u", "p", "-", true},
		{"redis+sentinel://u:p@a:1,b/NAME/2", []string{"NAME"}, 2, "u", "p", "-", false},
		{"redis-sentinel://a/NAME", []string{"NAME"}, 0, "", "", "-", false},
		{"rediss+sentinel://:p@a/NAME?tls_server_name=n&username=u", []string{"NAME"}, 0, "u", "p", "n", false},
		{"rediss-sentinel://a/NAME", []string{"NAME"}, 0, "", "", "", false},
		{"redis://su:sp@a,b:2/3?master_name=NAME&username=u&password=p", []string{"NAME"}, 3, "u", "p", "-", false},
		{"redis://u:p@a,b:2/3?master_name=NAME&sentinel_password=sp", []string{"NAME"}, 3, "u", "p", "-", false},
		{"redis://a?addr=b:2&master_name=NAME&db=3", []string{"NAME"}, 3, "", "", "-", false},
	} {
		client, err := redisqueue.Dial(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		_ = client.Close()
		got := test
		got.tls = "-"
		switch c := client.(type) {
		case *redis.Client:
			o := c.Options()
			got.addrs, got.db, got.user, got.pw, got.clustered = []string{o.Addr}, o.DB, o.Username, o.Password, false
			if o.TLSConfig != nil {
				got.tls = o.TLSConfig.ServerName
			}
		case *redis.ClusterClient:
			o := c.Options()
			got.addrs, got.db, got.user, got.pw, got.clustered = o.Addrs, 0, o.Username, o.Password, true
			slices.Sort(got.addrs)
			slices.Sort(test.addrs)
			if o.TLSConfig != nil {
				got.tls = o.TLSConfig.ServerName
			}
		}
		if !slices.Equal(got.addrs, test.addrs) || got.db != test.db || got.user != test.user || got.pw != test.pw ||
			got.tls != test.tls || got.clustered != test.clustered {
			t.Errorf("%s: got %+v, want %+v", test.url, got, test)
		}
	}
}

func TestAClientIsBoundedAndObeysDeadlines(t *testing.T) {
	client, err := redisqueue.Dial("redis://host?pool_size=3&read_timeout=7s")
	if err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	o := client.(*redis.Client).Options()
	if !o.ContextTimeoutEnabled || o.PoolSize != 3 || o.MaxActiveConns != 3 || o.MaxIdleConns > 3 ||
		o.ReadTimeout != 7*time.Second {
		t.Errorf("options are %+v", o)
	}
	clustered, err := redisqueue.Dial("redis://a:1,b:1?pool_size=3&read_timeout=7s")
	if err != nil {
		t.Fatal(err)
	}
	_ = clustered.Close()
	c := clustered.(*redis.ClusterClient).Options()
	if !c.ContextTimeoutEnabled || c.PoolSize != 3 || c.MaxActiveConns != 3 || c.ReadTimeout != 7*time.Second {
		t.Errorf("options are %+v", c)
	}
}

func TestConnectionsAreNamed(t *testing.T) {
	server := testserver.Redis(t)
	for url, want := range map[string]string{server: "spendflush", server + "?client_name=other": "other"} {
		if name, err := dial(t, url).(*redis.Client).ClientGetName(t.Context()).Result(); name != want || err != nil {
			t.Errorf("the name is %q, %v", name, err)
		}
	}
}

func TestASocketAndTLSLeadToTheServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := testserver.NewCertificates(t)
	_, tlsPort := freePorts(t)
	server := startRedis(t, servers.RedisConfig{Args: []string{
		"--unixsocket", socket, "--tls-port", strconv.Itoa(tlsPort),
		"--tls-cert-file", c.ServerCert, "--tls-key-file", c.ServerKey, "--tls-auth-clients", "no",
	}})
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprintf("unix://%s@%s?db=3", u.User, socket),
		fmt.Sprintf("rediss://%s@localhost:%d/3?skip_verify=true", u.User, tlsPort),
		fmt.Sprintf("redis://%s@%s/3", u.User, u.Host),
	} {
		if n, err := dial(t, text).Incr(t.Context(), "uses").Result(); n == 0 || err != nil {
			t.Errorf("%s: %d, %v", text, n, err)
		}
	}
	if n, err := dial(t, fmt.Sprintf("redis://%s@%s/3", u.User, u.Host)).Get(t.Context(), "uses").Int(); n != 3 || err != nil {
		t.Errorf("database 3 was reached %d times, %v", n, err)
	}
	if err := dial(t, fmt.Sprintf("rediss://%s@localhost:%d", u.User, tlsPort)).Ping(t.Context()).Err(); err == nil {
		t.Error("a certificate that nobody signed was taken")
	}
}

func TestTLSTakesFilesFromSettingsAndURL(t *testing.T) {
	t.Parallel()
	c, others := testserver.NewCertificates(t), testserver.NewCertificates(t)
	_, tlsPort := freePorts(t)
	server := startRedis(t, servers.RedisConfig{Args: []string{
		"--tls-port", strconv.Itoa(tlsPort), "--tls-ca-cert-file", c.CA, "--tls-cert-file", c.ServerCert, "--tls-key-file", c.ServerKey,
		"--tls-auth-clients", "yes",
	}})
	url := fmt.Sprintf("rediss://:%s@127.0.0.1:%d", server.Password(), tlsPort)
	full := redisqueue.TLS{CAFile: c.CA, CertFile: c.ClientCert, KeyFile: c.ClientKey}
	with := func(change func(*redisqueue.TLS)) redisqueue.TLS {
		changed := full
		change(&changed)
		return changed
	}
	for name, test := range map[string]struct {
		url  string
		tls  redisqueue.TLS
		says string // "": it works
	}{
		"by settings":        {url, full, ""},
		"by another name":    {url, with(func(t *redisqueue.TLS) { t.ServerName = "redis.example" }), ""},
		"by URL":             {url + "?tls_ca_file=" + c.CA + "&tls_cert_file=" + c.ClientCert + "&tls_key_file=" + c.ClientKey, redisqueue.TLS{}, ""},
		"the URL wins":       {url + "?tls_ca_file=" + c.CA, with(func(t *redisqueue.TLS) { t.CAFile = others.CA }), ""},
		"unverified":         {url + "?skip_verify=true", with(func(t *redisqueue.TLS) { t.CAFile = others.CA }), ""},
		"unknown authority":  {url, with(func(t *redisqueue.TLS) { t.CAFile = "" }), "unknown authority"},
		"another authority":  {url, with(func(t *redisqueue.TLS) { t.CAFile = others.CA }), "unknown authority"},
		"a name that isn't":  {url, with(func(t *redisqueue.TLS) { t.ServerName = "redis.invalid" }), "not redis.invalid"},
		"no client's":        {url, with(func(t *redisqueue.TLS) { t.CertFile, t.KeyFile = "", "" }), "certificate required"},
		"a stranger's":       {url, with(func(t *redisqueue.TLS) { t.CertFile, t.KeyFile = others.ClientCert, others.ClientKey }), "remote error: tls"},
		"without TLS at all": {strings.Replace(url, "rediss", "redis", 1), redisqueue.TLS{}, "EOF"},
	} {
		client, err := redisqueue.DialTLS(test.url, test.tls)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = client.Ping(t.Context()).Err()
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
		if got, want := redisqueue.Unverified(client), name == "unverified"; got != want {
			t.Errorf("%s: it is said to be unverified: %v", name, got)
		}
		_ = client.Close()
	}
}
