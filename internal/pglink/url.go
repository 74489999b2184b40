package pglink

import (
	"errors"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// errEncode shows nothing of the URL: where its parts begin and end can't be told.
var errEncode = errors.New("it can't be read as a URL. Percent-encode what is special in the user's name and password: " +
	"@ is %40, / is %2F, : is %3A, ? is %3F, # is %23, % is %25")

// CheckURL returns an error, which shows nothing of the text, if it is a URL whose user or password
// holds characters that aren't percent-encoded. A keyword/value string is not looked at.
func CheckURL(databaseURL string) error {
	if !isURL(databaseURL) {
		return nil
	}
	_, rest, _ := strings.Cut(databaseURL, "://")

	// As pgx and libpq do: the first @ ends the user and the password, unless a / comes before it.
	user := ""
	hasUser := false
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, rest, hasUser = rest[:i], rest[i+1:], true
	}
	beforeQuery, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(beforeQuery, "/")

	if strings.Contains(beforeQuery, "@") {
		return errEncode // what is before it belongs to the password
	}
	if !hasUser && !portsAreNumbers(hosts) {
		return errEncode // it is no port but a password, which ended at a / of its own
	}
	for part := range strings.SplitSeq(query, "&") {
		if strings.Contains(part, "@") && !strings.Contains(part, "=") {
			return errEncode
		}
	}
	for _, part := range []string{user, path} {
		if _, err := url.PathUnescape(part); err != nil || strings.ContainsAny(part, " \t\r\n") {
			return errEncode
		}
	}
	return nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

var hostAndPort = regexp.MustCompile(`^(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?$`)

func portsAreNumbers(hosts string) bool {
	for host := range strings.SplitSeq(hosts, ",") {
		if !hostAndPort.MatchString(host) {
			return false
		}
	}
	return true
}

// ParseError is what is told of an error of pgx's about the URL: what is wrong, without the URL
// itself.
func ParseError(err error) error {
	parse, ok := errors.AsType[*pgconn.ParseConfigError](err)
	if !ok {
		return err
	}
	nameless := *parse
	nameless.ConnString = "(not shown)"
	return &nameless
}

var targetKeyword = regexp.MustCompile(`(^|\s)target_session_attrs\s*=`)

// saysTarget says whether the URL, the keyword/value string or the environment names
// target_session_attrs.
func saysTarget(databaseURL string) bool {
	if os.Getenv("PGTARGETSESSIONATTRS") != "" {
		return true
	}
	if !isURL(databaseURL) {
		return targetKeyword.MatchString(databaseURL)
	}
	_, query, _ := strings.Cut(databaseURL, "?")
	values, _ := url.ParseQuery(query) // what can't be read pgx has refused
	return values.Has("target_session_attrs")
}
