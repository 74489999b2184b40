package integration

import (
	"bufio"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/spendflush/spendflush/internal/lab/testserver"
)

// site is a proxy with TLS before two instances that are served below /spend.
type site struct {
	*stack
	proxy     *instance
	instances []*instance
	own       *testserver.Certificates // of the proxy
}

// startSite starts the instances, which serve TLS with the inner certificates if there are any, and
// the proxy once they are ready.
func startSite(t *testing.T, inner *testserver.Certificates, proxy func(s *site, dir, address string, to []string) *process) *site {
	t.Helper()
	s := &site{stack: newStack(t), own: testserver.NewCertificates(t)}
	variables := []string{
		"SPENDFLUSH_BASE_PATH=/spend", "SPENDFLUSH_TRUSTED_PROXIES=127.0.0.1", "SPENDFLUSH_HOSTS=site.example", "SPENDFLUSH_ACCESS_LOG=true",
	}
	s.trusts(s.own)
	if inner != nil {
		variables = append(variables, s.servedOverTLS(inner)...)
		s.trusts(s.own, inner)
	}
	to := []string{freeAddress(t), freeAddress(t)}
	for i, address := range to {
		s.instances = append(s.instances, s.launch(fmt.Sprintf("pod-%d", i), append([]string{"SPENDFLUSH_LISTEN=" + address}, variables...)...))
	}
	for _, in := range s.instances {
		in.awaitReady()
	}
	address := freeAddress(t)
	s.proxy = &instance{process: proxy(s, t.TempDir(), address, to), stack: s.stack, url: "https://" + address + "/spend"}
	eventually(t, "the proxy has an instance", func() string {
		if status, body, err := s.do(http.MethodGet, s.proxy.url+"/readyz", "", nil); err != nil || status != http.StatusOK {
			return fmt.Sprintf("%d %s %v", status, body, err)
		}
		return ""
	})
	return s
}

// changed returns the text of a file that is shipped, with the changes that it asks for, old and
// new in turn.
func changed(t testing.TB, path string, changes ...string) string {
	t.Helper()
	text := readText(t, path)
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(text, changes[i]); n != 1 {
			t.Fatalf("%s has %q %d times", path, changes[i], n)
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	return text
}

// written writes a file below dir.
func written(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serverProgram returns the path of a program that may not be on everybody's PATH.
func serverProgram(t testing.TB, name string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	t.Fatalf("there is no %[1]s; .ci/need %[1]s installs it or says how", name)
	return ""
}

func TestPageAPIAndStreamBelowAPathBehindNginx(t *testing.T) {
	t.Parallel()
	s := startSite(t, nil, func(s *site, dir, address string, to []string) *process {
		temporary := ""
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			temporary += fmt.Sprintf("\t%s_temp_path %s/%s;\n", kind, dir, kind)
		}
		file := written(t, dir, "nginx.conf", changed(t, "../deploy/proxies/nginx.conf",
			"\nhttp {\n", "\nhttp {\n\taccess_log off;\n"+temporary,
			"listen 443 ssl", "listen "+address+" ssl",
			"/etc/nginx/tls/site.example.crt", s.own.ServerCert, "/etc/nginx/tls/site.example.key", s.own.ServerKey,
			"127.0.0.1:4181", to[0], "127.0.0.1:4182", to[1]))
		return launchProgram(t, serverProgram(t, "nginx"), "nginx", nil, "-p", dir, "-e", "stderr", "-c", file,
			"-g", "daemon off; master_process off; pid "+dir+"/pid;")
	})
	s.checkAPI()
	s.checkPage()
}

func TestPageAPIAndStreamBelowAPathBehindHAProxyWithTLSAllTheWay(t *testing.T) {
	t.Parallel()
	inner := testserver.NewCertificates(t)
	s := startSite(t, inner, func(s *site, dir, address string, to []string) *process {
		both := written(t, dir, "site.pem", readText(t, s.own.ServerCert)+readText(t, s.own.ServerKey))
		file := written(t, dir, "haproxy.cfg", changed(t, "../deploy/proxies/haproxy.cfg",
			"bind :443 ", "bind "+address+" ", "/etc/haproxy/site.example.pem", both,
			"/etc/haproxy/instances-ca.pem", inner.CA, "127.0.0.1:4181", to[0], "127.0.0.1:4182", to[1]))
		return launchProgram(t, serverProgram(t, "haproxy"), "haproxy", nil, "-db", "-f", file)
	})
	s.checkAPI()
	s.checkPage()
}

// from has the clients of the stack come from another address of this machine than the proxy, and
// follow nothing.
func (s *site) from(address string) {
	transport := s.http.Transport.(*http.Transport).Clone()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport.DialContext = dialer.DialContext
	s.t.Cleanup(transport.CloseIdleConnections)
	s.http.Transport = transport
	s.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

// checkAPI looks at what programs meet.
func (s *site) checkAPI() {
	s.t.Helper()
	s.from("127.0.0.2")
	root := strings.TrimSuffix(s.proxy.url, "/spend")
	for path, want := range map[string]int{
		"/spend/readyz": 200, "/spend/v1/status": 200, "/spend/openapi.json": 200, "/spend/v1/nothing": 404,
		"/": 404, "/spending": 404, "/spendv1/status": 404, "/v1/status": 404, "/metrics": 404,
	} {
		if status, body, err := s.do("GET", root+path, "", nil); err != nil || status != want {
			s.t.Errorf("%s: %d %.300s, %v", path, status, body, err)
		}
	}
	if _, _, header := s.proxy.withToken("", "GET", "", ""); header.Get("Location") != "/spend/" {
		s.t.Errorf("/spend leads to %q", header.Get("Location"))
	}

	// More than a proxy may take by itself, and an id with a slash.
	update := `{"spend":"0.25","team_id":"a/b","tags":["` + strings.Repeat("x", 200) + `"]}`
	many := strings.Repeat(update+"\n", 8000)
	status, body, err := s.do("POST", s.proxy.url+"/v1/updates?ack=committed", "application/x-ndjson", strings.NewReader(many))
	if err != nil || status != http.StatusOK || len(many) < 3<<19 {
		s.t.Errorf("%d bytes of updates: %d %s, %v", len(many), status, body, err)
	}
	if status, body := s.proxy.get("/v1/spend/team/a%2Fb"); status != http.StatusOK || !strings.Contains(body, `"spend":"2000"`) {
		s.t.Errorf("the spend of a/b: %d %s", status, body)
	}
	status, body, header := s.proxy.withToken("", "POST", "/v1/session", `{"token":"`+token+`"}`)
	if cookie := header.Get("Set-Cookie"); status != http.StatusNoContent || !strings.HasPrefix(cookie, "__Secure-spendflush_session=") ||
		!strings.Contains(cookie, "; Path=/spend/;") || !strings.Contains(cookie, "; Secure") {
		s.t.Errorf("%d %s, Set-Cookie: %s", status, body, cookie)
	}

	// Where a request comes from the proxy tells, whatever the client says.
	request, err := http.NewRequest("GET", s.proxy.url+"/v1/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("X-Forwarded-For", "198.51.100.7")
	request.Header.Set("X-Request-Id", "through-the-proxy")
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := s.http.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	events := bufio.NewScanner(response.Body)
	events.Buffer(nil, 1<<20)
	for n := 0; n < 3; {
		if !events.Scan() {
			s.t.Fatalf("the stream ends after %d events: %v", n, events.Err())
		}
		if strings.HasPrefix(events.Text(), "data: {") {
			n++
		}
	}
	response.Body.Close()
	eventually(s.t, "the access log has the stream", func() string {
		for _, in := range s.instances {
			for line := range strings.Lines(in.stderr.String()) {
				if !strings.Contains(line, `"request_id":"through-the-proxy"`) {
					continue
				}
				if !strings.Contains(line, `"remote":"127.0.0.2"`) || !strings.Contains(line, `"route":"/v1/events"`) {
					s.t.Errorf("it is logged as %s", line)
				}
				return ""
			}
		}
		return "it hasn't"
	})
}

// checkPage looks at what people meet.
func (s *site) checkPage() {
	s.t.Helper()
	block, _ := pem.Decode([]byte(readText(s.t, s.own.ServerCert)))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	key := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	b := newBrowser(s.t, chromedp.Flag("ignore-certificate-errors-spki-list", base64.StdEncoding.EncodeToString(key[:])))
	b.resize(1280, 900)
	b.do("open", chromedp.Navigate(s.proxy.url)) // without a slash at its end
	b.shows("h1", "Sign in")
	b.write("#token", token+kb.Enter)
	b.shows("#live", "Live")
	b.shows(".path", "8,000 updates")
	s.proxy.post(`{"spend": "0.5", "team_id": "t"}`)
	b.shows(".path", "8,001 updates")
	b.visit("#/spend")
	b.shows("main", "$2,000.50")
	if status := js[float64](b, `fetch(document.querySelector('a[href*="format=csv"]').href).then((r) => r.status)`); status != 200 {
		s.t.Errorf("the CSV: %v", status)
	}
	b.visit("#/")
	b.shows("#live", "Live")

	// An instance that is stopped is left, and the stream goes on with the other.
	first := s.instances[0]
	if js[bool](b, `document.getElementById("foot").innerText.includes("pod-1")`) {
		first = s.instances[1]
	}
	first.stop(0)
	other := "pod-1"
	if first.name == other {
		other = "pod-0"
	}
	b.shows("#foot", "Shown by "+other)
	b.shows("#live", "Live")
	b.click("#sign-out")
	b.shows("h1", "Sign in")
	b.quiet("401", "ERR_INCOMPLETE_CHUNKED", "502", "503")
}
