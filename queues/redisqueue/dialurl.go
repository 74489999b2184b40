package redisqueue

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// kind is what a URL leads to.
type kind uint8

const (
	oneServer kind = iota
	aCluster
	sentinels
)

// target is a URL in the form that go-redis reads, with what it doesn't know taken out.
type target struct {
	kind    kind
	url     *url.URL
	tls     bool
	files   TLS  // from options of the URL
	lax     bool // skip_verify
	secrets []string
}

// schemes are those allowed, with the one that go-redis knows.
var schemes = map[string]string{
	"redis": "redis", "rediss": "rediss", "unix": "unix",
	"redis+sentinel": "redis", "redis-sentinel": "redis", "rediss+sentinel": "rediss", "rediss-sentinel": "rediss",
}

// staleOptions are go-redis's for reading from replicas, which would answer with what was.
var staleOptions = []string{
	"read_only", "route_by_latency", "route_by_latency_tolerance", "route_randomly", "replica_only", "use_disconnected_replicas",
}

// parseTarget reads what go-redis doesn't: several hosts, the forms of sentinels that other clients
// have, and our own options. The rest stays in the URL for go-redis.
func parseTarget(rawURL string) (*target, error) {
	scheme, rest, found := strings.Cut(rawURL, "://")
	plain, known := schemes[scheme]
	if !found || !known {
		return nil, fmt.Errorf("%w: it must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://", ErrURL)
	}
	u, hosts, err := splitHosts(plain, rest)
	if err != nil {
		return nil, err
	}

	to := &target{url: u, tls: plain == "rediss"}
	query := u.Query()
	to.keepSecret(u.User, query)
	for _, name := range staleOptions {
		if query.Has(name) {
			return nil, fmt.Errorf("%w: option %s: only masters are asked", ErrURL, name)
		}
	}
	cluster, err := takeBool(query, "cluster")
	if err == nil {
		to.lax, err = takeBool(query, "skip_verify")
	}
	if err != nil {
		return nil, err
	}
	to.files = takeTLS(query)

	named := strings.HasSuffix(scheme, "sentinel")
	switch {
	case plain == "unix":
		if cluster || query.Has("master_name") {
			return nil, fmt.Errorf("%w: a cluster or sentinels can't be reached by unix://", ErrURL)
		}
	case named || query.Has("master_name"):
		if cluster {
			return nil, fmt.Errorf("%w: cluster=true and sentinels don't go together", ErrURL)
		}
		to.kind = sentinels
		err = to.useSentinels(query, hosts, named)
	case cluster || len(hosts) > 1:
		to.kind = aCluster
		err = to.useCluster(query, hosts)
	default:
		_, err = hostAddress(hosts[0], "6379")
	}
	if err != nil {
		return nil, err
	}
	u.RawQuery = query.Encode()
	return to, nil
}

// splitHosts returns the URL with its first host only, and all hosts. net/url doesn't read a list
// of hosts.
func splitHosts(scheme, rest string) (first *url.URL, hosts []string, err error) {
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	at := strings.LastIndexByte(authority, '@') + 1
	hosts = strings.Split(authority[at:], ",")
	first, err = url.Parse(scheme + "://" + authority[:at] + hosts[0] + rest[end:])
	if err != nil || strings.Count(authority, "@") > 1 || strings.Contains(rest[end:], "@") {
		// The parser's error is not shown: it quotes what it stumbles over, which may be a part of
		// the password.
		return nil, nil, fmt.Errorf("%w: it can't be read; characters such as / ? # @ : %% in user or password must be "+
			"percent-encoded (%%2F and so on)", ErrURL)
	}
	return first, hosts, nil
}

// keepSecret notes what no error may show.
func (to *target) keepSecret(user *url.Userinfo, query url.Values) {
	password, _ := user.Password()
	for _, secret := range []string{password, query.Get("password"), query.Get("sentinel_password")} {
		if secret != "" {
			to.secrets = append(to.secrets, secret)
		}
	}
}

// takeBool takes an option out that go-redis doesn't know everywhere.
func takeBool(query url.Values, name string) (bool, error) {
	text := query.Get(name)
	query.Del(name)
	if text == "" {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%w: %s=%s: true and false are allowed", ErrURL, name, text)
	}
	return value, nil
}

func takeTLS(query url.Values) TLS {
	take := func(name string) string {
		value := query.Get(name)
		query.Del(name)
		return value
	}
	return TLS{
		CAFile: take("tls_ca_file"), CertFile: take("tls_cert_file"), KeyFile: take("tls_key_file"),
		ServerName: take("tls_server_name"),
	}
}

// useCluster makes the URL one for redis.ParseClusterURL.
func (to *target) useCluster(query url.Values, hosts []string) error {
	database := cmp.Or(strings.Trim(to.url.Path, "/"), query.Get("db"), "0")
	if database != "0" {
		return fmt.Errorf("%w: database %q: a cluster has only database 0", ErrURL, database)
	}
	query.Del("db")
	return to.spread(query, hosts, "6379")
}

// useSentinels makes the URL one for redis.ParseFailoverURL, in which user and password before the
// hosts are those of the sentinels. Where they are Redis's, as with redis+sentinel, they move.
func (to *target) useSentinels(query url.Values, hosts []string, named bool) error {
	if named {
		name, database, _ := strings.Cut(strings.Trim(to.url.Path, "/"), "/")
		if query.Has("master_name") {
			return fmt.Errorf("%w: the master's name is given twice: in the path and as master_name", ErrURL)
		}
		query.Set("master_name", name)
		to.url.Path, to.url.RawPath = "/"+database, ""
	}
	if query.Get("master_name") == "" {
		return fmt.Errorf("%w: sentinels need the name of the master: redis+sentinel://host:26379,host:26379/NAME, or "+
			"?master_name=NAME", ErrURL)
	}

	if named || query.Has("sentinel_username") || query.Has("sentinel_password") {
		moveUser(to.url, query)
	}
	return to.spread(query, hosts, "26379")
}

// moveUser makes user and password before the hosts options, and the sentinels' options those
// before the hosts.
func moveUser(u *url.URL, query url.Values) {
	if user := u.User.Username(); user != "" {
		query.Set("username", user)
	}
	if password, ok := u.User.Password(); ok {
		query.Set("password", password)
	}
	u.User = nil
	if name, password := query.Get("sentinel_username"), query.Get("sentinel_password"); name != "" || password != "" {
		u.User = url.UserPassword(name, password)
	}
	query.Del("sentinel_username")
	query.Del("sentinel_password")
}

// spread has all hosts in the URL as go-redis wants them: the first as host, the others as options.
func (to *target) spread(query url.Values, hosts []string, port string) error {
	more := query["addr"]
	query.Del("addr")
	for i, host := range append(hosts, more...) {
		address, err := hostAddress(host, port)
		switch {
		case err != nil:
			return err
		case i == 0:
			to.url.Host = address
		default:
			query.Add("addr", address)
		}
	}
	return nil
}

func hostAddress(host, port string) (string, error) {
	bad := fmt.Errorf("%w: hosts must be given as host:port or host:port,host:port, with ports from 1 to 65535", ErrURL)
	u, err := url.Parse("redis://" + host)
	if err != nil || u.Hostname() == "" || u.Host != host {
		return "", bad
	}
	port = cmp.Or(u.Port(), port)
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", bad
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// refused says why go-redis didn't take the URL. What net/url says quotes the URL, so it isn't
// shown; the rest speaks of the database and the options, which aren't secret.
func (to *target) refused(err error) error {
	reason := strings.TrimPrefix(err.Error(), "redis: ")
	if _, ok := errors.AsType[*url.Error](err); ok {
		reason = "it can't be read"
	}
	if slices.ContainsFunc(to.secrets, func(secret string) bool { return strings.Contains(reason, secret) }) {
		reason = "its database or its options can't be read"
	}
	return fmt.Errorf("%w: %s", ErrURL, reason)
}
