package main

import (
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// unprotected says which connections the settings leave open to whoever is between here and there,
// without saying so themselves: one line each. What stays on this machine needs no protection.
func (s *settings) unprotected() (lines []string) {
	if !saysSSLMode(s.DatabaseURL) && leavesMachine(postgresHosts(s.DatabaseURL)) {
		lines = append(lines, "DATABASE_URL has no sslmode: the connection may be without TLS, and who answers isn't verified; "+
			"add sslmode=verify-full, or sslmode=disable if the network is trusted")
	}
	if scheme, hosts := redisHosts(s.RedisURL); s.UseRedis && leavesMachine(hosts) {
		lines = append(lines, "REDIS_URL is "+scheme+"://: the password and the batches travel without TLS; use "+
			strings.Replace(scheme, "redis", "rediss", 1)+":// unless the network is trusted")
	}
	return lines
}

var keywordSSLMode = regexp.MustCompile(`(^|\s)sslmode\s*=`)

func saysSSLMode(text string) bool {
	if os.Getenv("PGSSLMODE") != "" { // which pgx reads
		return true
	}
	if u, err := url.Parse(text); err == nil && strings.HasPrefix(u.Scheme, "postgres") {
		return u.Query().Has("sslmode")
	}
	return keywordSSLMode.MatchString(text)
}

// postgresHosts are the hosts of the URL, or of its keywords; none if it can't be read, which is
// told elsewhere.
func postgresHosts(text string) []string {
	config, err := pgx.ParseConfig(text)
	if text == "" || err != nil {
		return nil
	}
	hosts := []string{config.Host}
	for _, other := range config.Fallbacks {
		hosts = append(hosts, other.Host)
	}
	return hosts
}

// redisHosts are the hosts of what is spoken to without TLS, Redis or its sentinels, and how the
// URL begins.
func redisHosts(text string) (scheme string, hosts []string) {
	scheme, rest, _ := strings.Cut(text, "://")
	if scheme != "redis" && scheme != "redis+sentinel" && scheme != "redis-sentinel" {
		return "", nil
	}
	rest, _, _ = strings.Cut(rest, "/")
	rest, _, _ = strings.Cut(rest, "?")
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	for host := range strings.SplitSeq(rest, ",") {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		hosts = append(hosts, strings.Trim(host, "[]"))
	}
	return scheme, hosts
}

// leavesMachine says whether one of the hosts is another machine. A path is a socket of this one.
func leavesMachine(hosts []string) bool {
	for _, host := range hosts {
		ip := net.ParseIP(host)
		if host != "" && !strings.HasPrefix(host, "/") && !strings.HasPrefix(host, "@") && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return true
		}
	}
	return false
}
