package integration

import (
	"bufio"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// launchPiped starts the program with its output going to a reader, which reads until the output
// matches, and then goes away. It returns what was found.
func launchPiped(t *testing.T, until string, variables []string, args ...string) (p *process, found []string) {
	t.Helper()
	p = prepare(t, binary, "spendflush "+args[0]+" into a pipe", variables, args...)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	p.start()
	writer.Close()
	if err := reader.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(until)
	lines := bufio.NewScanner(reader)
	for lines.Scan() {
		if match := pattern.FindStringSubmatch(lines.Text()); match != nil {
			return p, match
		}
	}
	t.Fatalf("nothing matches %s: %v", until, lines.Err())
	return nil, nil
}

func postTo(t *testing.T, s *stack, url, body string) {
	t.Helper()
	status, answer, err := s.do(http.MethodPost, url+"/v1/updates", "application/json", strings.NewReader(body))
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("%d %s %v", status, answer, err)
	}
}

func TestServeOutlivesTheReaderOfItsLogAndDrains(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	p, found := launchPiped(t, `"msg":"ready","listen":"([^"]+)"`, s.variables("SPENDFLUSH_SEAL_INTERVAL=1m"), "serve")
	for range 20 { // each is logged
		postTo(t, s, "http://"+found[1], `{"spend": "0.5", "api_key": "key"}`)
	}
	p.stop(0)
	if got := s.total("key"); got.Spend != spend.Dollars(10) {
		t.Errorf("the books say %+v", got)
	}
}

func TestDevOutlivesTheReaderOfItsOutputAndStopsItsServers(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	p, found := launchPiped(t, `spendflush is ready at (http://\S+)`, []string{"SPENDFLUSH_LISTEN=127.0.0.1:0", "SPENDFLUSH_LOG_LEVEL=debug"}, "dev", "--dir", dir)
	d := &development{process: p, pids: serverPIDs(t, dir)}
	s := stackOn(t, "", "")
	for range 20 {
		postTo(t, s, found[1], `{"spend": "0.5", "api_key": "key"}`)
	}
	d.interrupt()
	again := startDev(t, dir)
	if answer := again.paste("/v1/usage"); !strings.Contains(answer, `"10"`) {
		t.Errorf("after a restart the books say %s", answer)
	}
	again.interrupt()
}
