//go:build release

package deploy

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These look at what `make release-check` has made in dist/.
const dist = root + "/dist"

var platforms = []string{"darwin_amd64", "darwin_arm64", "linux_amd64", "linux_arm64"}

// one returns the only file of dist/ that fits the pattern.
func one(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dist, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s in dist/: %q, %v; make release-check makes it", pattern, found, err)
	}
	return found[0]
}

func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return string(out)
}

// unpacked are the files of a tar archive that is compressed with gzip, by their names in it.
func unpacked(t testing.TB, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 {
			t.Errorf("%s in %s belongs to %d:%d", header.Name, path, header.Uid, header.Gid)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		if files[name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReleaseHasAChecksumOfEachFile(t *testing.T) {
	sums := map[string]string{}
	for line := range strings.Lines(readText(t, "dist/checksums.txt")) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[name] = sum
	}
	var want []string
	for _, platform := range platforms {
		want = append(want, one(t, "*_"+platform+".tar.gz"), one(t, "*_"+platform+".cdx.json"))
	}
	for _, pattern := range []string{"*_amd64.deb", "*_arm64.deb", "*amd64.rpm", "*arm64.rpm"} {
		want = append(want, one(t, pattern))
	}
	charts, _ := filepath.Glob(filepath.Join(root, "bin/chart/*.tgz"))
	want = append(want, charts...)
	for _, path := range want {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(content)
		if got := sums[filepath.Base(path)]; got != hex.EncodeToString(digest[:]) {
			t.Errorf("the checksum of %s is %q", filepath.Base(path), got)
		}
		delete(sums, filepath.Base(path))
	}
	if len(charts) != 1 || len(sums) != 0 {
		t.Errorf("charts are %q; there are checksums of %q as well", charts, slices.Collect(maps.Keys(sums)))
	}
}

func TestReleaseArchivesAreWholeAndSayWhatTheyAreMadeOf(t *testing.T) {
	for _, platform := range platforms {
		path := one(t, "*_"+platform+".tar.gz")
		files := unpacked(t, path)
		for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", unitFile, "deploy/spendflush.env.example", "deploy/prometheus/alerts.yml"} {
			if string(files[name]) != readText(t, name) {
				t.Errorf("%s lacks %s, or has another one", path, name)
			}
		}
		program := filepath.Join(t.TempDir(), "spendflush")
		if err := os.WriteFile(program, files["spendflush"], 0o755); err != nil {
			t.Fatal(err)
		}
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if settings["GOOS"]+"_"+settings["GOARCH"] != platform || settings["CGO_ENABLED"] != "0" || settings["-trimpath"] != "true" {
			t.Errorf("%s has a program of %v", path, settings)
		}
		if platform == "linux_"+goArch(t) {
			version := regexp.MustCompile(`spendflush_(.+)_linux`).FindStringSubmatch(filepath.Base(path))[1]
			if said := output(t, program, "version"); !strings.Contains(said, version) {
				t.Errorf("the program says %q, its archive %s", said, version)
			}
		}
		var bill struct {
			BOMFormat  string
			Components []struct{ Name, Version string }
		}
		text, err := os.ReadFile(one(t, "*_"+platform+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &bill); err != nil || bill.BOMFormat != "CycloneDX" {
			t.Fatalf("the bill of %s: %v", platform, err)
		}
		listed := map[string]bool{}
		for _, c := range bill.Components {
			listed[c.Name+"@"+c.Version] = true
		}
		for _, module := range info.Deps {
			if !listed[module.Path+"@"+module.Version] {
				t.Errorf("the bill of %s lacks %s@%s", platform, module.Path, module.Version)
			}
		}
		if len(info.Deps) < 10 {
			t.Errorf("the program is made of %v", info.Deps)
		}
	}
}

func goArch(t testing.TB) string { return strings.TrimSpace(output(t, "go", "env", "GOARCH")) }

// installed are the files of a package below dir, and their modes.
func installed(t testing.TB, dir string) map[string]os.FileMode {
	t.Helper()
	files := map[string]os.FileMode{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		files[strings.TrimPrefix(path, dir)] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestReleasePackagesBringTheServiceAndItsSettings(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		deb, rpm := t.TempDir(), t.TempDir()
		output(t, "dpkg-deb", "-x", one(t, "*_"+arch+".deb"), deb)
		// Names in it begin with a slash: without the flag cpio would install the package on this
		// machine.
		unpack := exec.Command("sh", "-c", `rpm2cpio "$1" | cpio -idm --quiet --no-absolute-filenames`, "sh", absolute(t, one(t, "*"+arch+".rpm")))
		unpack.Dir = rpm
		if said, err := unpack.CombinedOutput(); err != nil {
			t.Fatalf("rpm2cpio: %v\n%s", err, said)
		}
		for _, dir := range []string{deb, rpm} {
			files := installed(t, dir)
			for name, mode := range map[string]os.FileMode{
				"/usr/bin/spendflush": 0o755, "/usr/lib/systemd/system/spendflush.service": 0o644, "/etc/spendflush/spendflush.env": 0o600,
				"/usr/share/doc/spendflush/copyright": 0o644, "/usr/share/doc/spendflush/alerts.yml": 0o644,
			} {
				if files[name] != mode {
					t.Errorf("%s: %s has mode %v, want %v", arch, name, files[name], mode)
				}
			}
			unit, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/spendflush.service"))
			if err != nil || string(unit) != readText(t, unitFile) {
				t.Errorf("the unit is another one: %v", err)
			}
			if said, err := verify(t, string(unit), "usr/bin/spendflush"); err != nil {
				t.Errorf("%v: %s", err, said)
			}
		}
		control := t.TempDir()
		output(t, "dpkg-deb", "-e", one(t, "*_"+arch+".deb"), control)
		for name, want := range map[string]string{"conffiles": "/etc/spendflush/spendflush.env", "postinst": "daemon-reload", "prerm": "disable --now", "postrm": "daemon-reload"} {
			if text, err := os.ReadFile(filepath.Join(control, name)); err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%s of the package lacks %q: %v\n%s", name, want, err, text)
			}
		}
	}
}

func absolute(t testing.TB, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
