package integration

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// complete returns what a shell is offered after these words, without descriptions.
func complete(t *testing.T, variables []string, words ...string) string {
	t.Helper()
	var offered []string
	for line := range strings.Lines(mustRun(t, 0, variables, append([]string{"__complete"}, words...)...)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		offered = append(offered, word)
	}
	return strings.Join(offered, " ")
}

func TestShellsCompleteCommandsFlagsAndIdsInQuarantine(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	mustRun(t, 0, s.variables(), "migrate", "up")
	store := s.openStore()
	for range 4 {
		s.setAside(store, s.handMade(spend.NewProducerID(time.Now()), 1, spent{"key", "1"}))
	}
	mustRun(t, 0, s.variables(), "quarantine", "drop", "--yes", "2")
	noFiles, inOrder := ":4", ":36"
	for _, c := range []struct{ words, want string }{
		{"quarantine show ", "1 3 4 " + inOrder},
		{"quarantine show 1 ", inOrder}, // it shows one alone
		{"quarantine apply 3 ", "1 4 " + inOrder},
		{"quarantine drop ", "1 3 4 " + inOrder},
		{"quarantine drop 3", "3 " + inOrder},
		{"migrate ", "print status up " + noFiles},
		{"migrate up ", noFiles},
		{"aud", "audit " + noFiles},
		{"completion ", "bash zsh fish powershell " + noFiles},
		{"help quarantine ", "apply drop list show " + noFiles},
		{"status --wat", "--watch " + noFiles},
		{"status --watch=", "1s 2s 5s 10s 1m " + noFiles},
		{"flush --timeout ", "10s 1m 10m " + noFiles},
		{"dev --dir ", ":16"}, // directories
	} {
		if got := complete(t, s.variables(), strings.Split(c.words, " ")...); got != c.want {
			t.Errorf("after %q: %q instead of %q", c.words, got, c.want)
		}
	}
	// Where the database can't be asked, nothing is offered and nothing is said.
	for _, variables := range [][]string{nil, {"DATABASE_URL=postgres://127.0.0.1:1/db"}, {"DATABASE_URL=nonsense"}} {
		if got := complete(t, variables, "quarantine", "apply", ""); got != inOrder {
			t.Errorf("%v: %q", variables, got)
		}
	}
}

func TestCompletionScriptsAreThoseOfTheirShells(t *testing.T) {
	t.Parallel()
	for shell, has := range map[string]string{
		"bash": "complete -o default", "zsh": "#compdef spendflush", "fish": "complete -c spendflush", "powershell": "Register-ArgumentCompleter",
	} {
		script := mustRun(t, 0, nil, "completion", shell)
		if !strings.Contains(script, has) || !strings.Contains(script, "__complete") {
			t.Errorf("%s: %q isn't in the script:\n%.500s", shell, has, script)
		}
		if shell != "bash" {
			continue
		}
		check := exec.Command("bash", "-n")
		check.Stdin = strings.NewReader(script)
		if output, err := check.CombinedOutput(); err != nil {
			t.Errorf("bash: %v\n%s", err, output)
		}
	}
}
