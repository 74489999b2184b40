package servers

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// MissingError says that a program isn't installed.
type MissingError struct {
	Program string // "postgres"
	Install string // the command that installs it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not on this machine; install it: %s", e.Program, e.Install)
}

func missing(program, debian, homebrew string) *MissingError {
	if runtime.GOOS == "darwin" {
		return &MissingError{Program: program, Install: "brew install " + homebrew}
	}
	return &MissingError{Program: program, Install: "apt-get install -y " + debian}
}

// Where Postgres is when it isn't in $PATH; Debian, Red Hat and Homebrew keep its versions side by
// side.
var postgresPlaces = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
}

// findPostgres returns the directory of postgres and initdb: of the major version given, or of any
// if it is 0; the one in $PATH comes first, then that of pg_config, then the newest.
func findPostgres(major int) (string, error) {
	for _, bin := range postgresBins(postgresPlaces) {
		if major == 0 || postgresMajor(bin) == major {
			return bin, nil
		}
	}
	if major != 0 {
		return "", missing(fmt.Sprintf("postgres %d", major),
			fmt.Sprintf("postgresql-%d", major), fmt.Sprintf("postgresql@%d", major))
	}
	return "", missing("postgres", "postgresql", "postgresql@17")
}

func postgresBins(places []string) []string {
	var bins []string
	add := func(bin string) {
		for _, program := range []string{"postgres", "initdb"} {
			if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
				return
			}
		}
		bins = append(bins, bin)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			add(filepath.Dir(path))
		}
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		add(strings.TrimSpace(string(out)))
	}
	for _, place := range places {
		found, _ := filepath.Glob(place) // the patterns are well-formed
		slices.SortFunc(found, func(a, b string) int { return -cmp.Compare(versionIn(a), versionIn(b)) })
		for _, bin := range found {
			add(bin)
		}
	}
	return bins
}

// versionIn returns the number in the name of the directory that holds bin: 15 for
// /usr/lib/postgresql/15/bin.
func versionIn(bin string) float64 {
	name := filepath.Base(filepath.Dir(bin))
	version, err := strconv.ParseFloat(name[strings.LastIndexAny(name, "@-")+1:], 64)
	if err != nil {
		return 0
	}
	return version
}

// postgresMajor returns the major version of the programs in bin, 0 if they don't say.
func postgresMajor(bin string) int {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	// postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return 0
	}
	return leadingNumber(fields[2])
}

// dataMajor returns the major version that made the data in dir, 0 if there is none.
func dataMajor(dir string) (int, error) {
	version, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the data: %w", err)
	}
	major := leadingNumber(string(version))
	if major == 0 {
		return 0, fmt.Errorf("%s: PG_VERSION holds %q", dir, version)
	}
	return major, nil
}

func leadingNumber(s string) int {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	n, _ := strconv.Atoi(s[:end]) // 0 if there is no number
	return n
}

// findProgram returns the path of the first of these programs that is in $PATH or where system
// services live.
func findProgram(names ...string) (string, bool) {
	for _, name := range names {
		for _, place := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
			if path, err := exec.LookPath(place); err == nil {
				return path, true
			}
		}
	}
	return "", false
}
