package deploy

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const unitFile = "deploy/spendflush.service"

// directives are the settings of the unit's section [Service].
func directives(t testing.TB, unit string) map[string]string {
	t.Helper()
	_, service, found := strings.Cut(unit, "\n[Service]\n")
	service, _, _ = strings.Cut(service, "\n[")
	settings := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(service, -1) {
		settings[line[1]] = line[2]
	}
	if !found || len(settings) < 10 {
		t.Fatalf("the unit has %v", settings)
	}
	return settings
}

// verify has systemd look at a unit in a file system in which only it, the program and systemd's
// own units are.
func verify(t testing.TB, unit, program string) (said string, err error) {
	t.Helper()
	dir := t.TempDir()
	units := filepath.Join(dir, "usr/lib/systemd/system")
	for _, made := range []string{units, filepath.Dir(filepath.Join(dir, program)), filepath.Join(dir, "etc")} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	targets, _ := filepath.Glob("/usr/lib/systemd/system/*.target")
	more, _ := filepath.Glob("/usr/lib/systemd/system/*.slice")
	for _, path := range append(targets, more...) {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // a link to a unit that isn't installed
		}
		if err := os.WriteFile(filepath.Join(units, filepath.Base(path)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(units, "spendflush.service"), []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command("systemd-analyze", "verify", "--root="+dir, "spendflush.service").CombinedOutput()
	return string(output), err
}

func TestTheUnitIsWithoutFaultToSystemd(t *testing.T) {
	t.Parallel()
	unit := readText(t, unitFile)
	// Where a package puts the program, and where the unit's own first lines do.
	for _, program := range []string{"usr/bin/spendflush", "usr/local/bin/spendflush"} {
		if said, err := verify(t, unit, program); err != nil || said != "" {
			t.Errorf("%s: %v\n%s", program, err, said)
		}
	}
	for from, to := range map[string]string{
		"StateDirectoryMode=0700": "StateDirectoryMode=open", "ExecStart=spendflush ": "ExecStart=spendfilush ", "\nUMask=": "\nUMaks=",
	} {
		if said, err := verify(t, strings.Replace(unit, from, to, 1), "usr/bin/spendflush"); err == nil && said == "" {
			t.Errorf("%s isn't noticed: the test can't fail", strings.TrimSpace(to))
		}
	}
}

// exampleSettings are those of the example, with the lines of these names switched on.
func exampleSettings(t testing.TB, on ...string) map[string]string {
	t.Helper()
	set := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(#?)([A-Z_]+)=(.*)$`).FindAllStringSubmatch(readText(t, "deploy/spendflush.env.example"), -1) {
		if line[1] == "" || slices.Contains(on, line[2]) {
			set[line[2]] = line[3]
		}
	}
	for _, name := range on {
		if set[name] == "" {
			t.Fatalf("the example has no %s", name)
		}
	}
	return set
}

// asAService runs the program as systemd would run the unit, as far as its files go: as an account
// that is made for it, without rights, in a view of the file system in which /var/lib can't be
// written to, but for the StateDirectory.
const asAService = `
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /var/lib
if [ -n "$STATE" ]; then
	mkdir -p "/var/lib/private/$STATE"
	chmod "$STATE_MODE" "/var/lib/private/$STATE"
	chown "$ACCOUNT:$ACCOUNT" "/var/lib/private/$STATE"
	ln -s "private/$STATE" "/var/lib/$STATE"
	mount --bind "/var/lib/private/$STATE" "/var/lib/private/$STATE"
fi
mount -o remount,bind,ro /var/lib
umask "$UMASK"
exec setpriv --reuid "$ACCOUNT" --regid "$ACCOUNT" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all env -i "$@"
`

func TestTheServiceStartsWithTheJournalOfItsOwnExample(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: only root may start a program as systemd does")
	}
	set := exampleSettings(t, "SPENDFLUSH_JOURNAL_DIR")
	address, nobody := freeAddress(t), freeAddress(t)
	maps.Copy(set, map[string]string{
		"DATABASE_URL": "postgres://u:p@" + nobody + "/db", "REDIS_URL": "redis://" + nobody,
		"SPENDFLUSH_LISTEN": address, "SPENDFLUSH_DRAIN_DELAY": "0s",
	})
	unit := readText(t, unitFile)
	service := func(unit string) *exec.Cmd {
		service := directives(t, unit)
		if service["ExecStart"] != "spendflush serve" || service["DynamicUser"] != "yes" || service["ProtectSystem"] != "strict" {
			t.Fatalf("the unit is another one than the one that is imitated here: %v", service)
		}
		args := []string{"--mount", "--propagation", "unchanged", "sh", "-c", asAService, "sh"}
		for name, value := range set {
			args = append(args, name+"="+value)
		}
		cmd := exec.Command("unshare", append(args, built(t), "serve")...)
		cmd.Env = append(os.Environ(), "ACCOUNT=61234", "STATE="+service["StateDirectory"], "STATE_MODE="+service["StateDirectoryMode"], "UMASK="+service["UMask"])
		return cmd
	}

	p := start(t, service(unit))
	if status := p.ask("http://" + address + "/healthz"); status != 200 {
		t.Errorf("/healthz answers %d", status)
	}
	journal := fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, set["SPENDFLUSH_JOURNAL_DIR"])
	if files, err := os.ReadDir(journal); err != nil || len(files) == 0 {
		t.Errorf("there is no journal: %v %v", files, err)
	}
	p.stop()

	without := regexp.MustCompile(`(?m)^StateDirectory.*\n`).ReplaceAllString(unit, "")
	p = start(t, service(without))
	<-p.ended
	if p.cmd.ProcessState.ExitCode() != 2 || !strings.Contains(p.log.String(), set["SPENDFLUSH_JOURNAL_DIR"]) {
		t.Errorf("without a StateDirectory it must refuse to start; it ended with %v\n%s", p.cmd.ProcessState, p.log.String())
	}
}

// A volume of Kubernetes belongs to root and, by fsGroup, to the group of the program, which may
// write to it.
func TestAJournalOnAVolumeOfKubernetesIsTaken(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: only root may give files to other accounts")
	}
	pod := instances(t, render(t, required+"journal: {enabled: true}\n")).template
	uid, gid, group := uint32(*pod.Spec.SecurityContext.RunAsUser), uint32(*pod.Spec.SecurityContext.RunAsGroup), int(*pod.Spec.SecurityContext.FSGroup)
	volume, err := os.MkdirTemp("", "spendflush-volume-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(volume) })
	if err := os.Chown(volume, 0, group); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(volume, 0o775|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	address, nobody := freeAddress(t), freeAddress(t)
	// Twice: the second start finds what the first one made.
	for range 2 {
		cmd := exec.Command(built(t), "serve")
		cmd.Env = []string{
			"DATABASE_URL=postgres://u:p@" + nobody + "/db", "REDIS_URL=redis://" + nobody, "SPENDFLUSH_LISTEN=" + address,
			"SPENDFLUSH_DRAIN_DELAY=0s", "SPENDFLUSH_JOURNAL_DIR=" + filepath.Join(volume, "journal"),
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{uint32(group)}}}
		p := start(t, cmd)
		if status := p.ask("http://" + address + "/healthz"); status != 200 {
			t.Errorf("/healthz answers %d", status)
		}
		p.stop()
	}
}
