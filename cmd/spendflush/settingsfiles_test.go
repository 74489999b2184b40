package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// holding writes a file and returns its path.
func holding(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// good is a value for each secret setting.
var good = map[string]string{
	"DATABASE_URL": "postgres://u:hidden@localhost/db", "REDIS_URL": "redis://:hidden@localhost", "SPENDFLUSH_TOKENS": "hidden-0123456789abcdef",
	"SPENDFLUSH_QUEUE_KEY": strings.Repeat("00112233445566778899aabbccddeeff", 2), "SPENDFLUSH_QUEUE_KEY_ACCEPTED": strings.Repeat("ffeeddccbbaa99887766554433221100", 2),
}

func TestEverySecretSettingMayStandInAFile(t *testing.T) {
	queueKey := "SPENDFLUSH_QUEUE_KEY=" + strings.Repeat("f0e1d2c3b4a5968778695a4b3c2d1e0f", 2)
	secrets := 0
	for _, s := range settingTable() {
		if !s.secret {
			continue
		}
		secrets++
		var others []string // what else the setting needs
		if s.name == "SPENDFLUSH_QUEUE_KEY_ACCEPTED" {
			others = append(others, queueKey)
		}
		value := good[s.name]
		if value == "" {
			t.Errorf("%s has no value here", s.name)
			continue
		}
		set, err := load(append(others, s.fileName()+"="+holding(t, value+"\r\n\n")), 0)
		if err != nil {
			t.Errorf("%s: %v", s.fileName(), err)
			continue
		}
		direct, err := load(append(others, s.name+"="+value), 0)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		got, want := *set, *direct
		if got.keys.Now().Len() != want.keys.Now().Len() || got.DatabaseURL != want.DatabaseURL || got.RedisURL != want.RedisURL ||
			got.QueueKey != want.QueueKey || got.QueueKeyAccepted != want.QueueKeyAccepted {
			t.Errorf("%s: %+v, not %+v", s.fileName(), got, want)
		}
		for what, environ := range map[string][]string{
			"both":    {s.name + "=" + value, s.fileName() + "=" + holding(t, value)},
			"missing": {s.fileName() + "=" + filepath.Join(t.TempDir(), "missing")},
			"empty":   {s.fileName() + "=" + holding(t, " \n")},
			"folder":  {s.fileName() + "=" + t.TempDir()},
			"large":   {s.fileName() + "=" + holding(t, strings.Repeat(value+"\n", 1<<16))},
		} {
			_, err := load(append(others, environ...), 0)
			if err == nil || !strings.Contains(err.Error(), s.fileName()) || strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "00112233") {
				t.Errorf("%s, %s: %v", s.fileName(), what, err)
				continue
			}
			_, path, _ := strings.Cut(environ[len(environ)-1], "=")
			if what == "both" && !strings.Contains(err.Error(), s.name+": is set, and so is "+s.fileName()) || what != "both" && !strings.Contains(err.Error(), path) {
				t.Errorf("%s, %s: %v", s.fileName(), what, err)
			}
		}
	}
	if secrets != len(good) {
		t.Errorf("%d settings are secret, %d have a value here", secrets, len(good))
	}
}

func TestWhatAFileHoldsIsJudgedLikeTheSettingAndNotShown(t *testing.T) {
	path := holding(t, "0011223344")
	_, err := load([]string{"SPENDFLUSH_QUEUE_KEY_FILE=" + path}, 0)
	want := "SPENDFLUSH_QUEUE_KEY_FILE (" + path + "): the value (not shown) is not allowed; allowed: 64 or more hex"
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "0011223344") {
		t.Errorf("%v", err)
	}
	_, err = load(nil, needDatabase)
	if err == nil || !strings.Contains(err.Error(), "DATABASE_URL: is not set, nor is DATABASE_URL_FILE") {
		t.Errorf("%v", err)
	}
}

func TestAFileOfTokensCountsForWhatMayBeListenedOn(t *testing.T) {
	everywhere := "SPENDFLUSH_LISTEN=0.0.0.0:4180"
	if _, err := load([]string{everywhere, "SPENDFLUSH_TOKENS_FILE=" + holding(t, "billing write hidden-0123456789abcdef\n")}, 0); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "# nobody yet\n", "billing write\n"} {
		path := holding(t, text)
		_, err := load([]string{everywhere, "SPENDFLUSH_TOKENS_FILE=" + path}, 0)
		if err == nil || !strings.Contains(err.Error(), "SPENDFLUSH_TOKENS_FILE: "+path) || strings.Contains(err.Error(), "SPENDFLUSH_LISTEN") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTokensThatAreGivenTwiceAreRefused(t *testing.T) {
	_, err := load([]string{"SPENDFLUSH_TOKENS=hidden-0123456789abcdef,hidden-0123456789abcdeg,hidden-0123456789abcdef"}, 0)
	if err == nil || !strings.Contains(err.Error(), "SPENDFLUSH_TOKENS: token 3: it has the token of token 1") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("%v", err)
	}
}

func TestEnvListsTheFilesOfSecretSettings(t *testing.T) {
	var out bytes.Buffer
	p := &program{stdout: &out, stderr: &out}
	if status := p.run(t.Context(), []string{"env"}); status != exitOK {
		t.Fatal(status)
	}
	for name := range good {
		if !strings.Contains(out.String(), "\n"+name+"_FILE ") {
			t.Errorf("%s_FILE isn't listed in\n%s", name, &out)
		}
	}
	if strings.Contains(out.String(), "SHARDS_FILE") {
		t.Error("what isn't secret has a file, too")
	}
}
