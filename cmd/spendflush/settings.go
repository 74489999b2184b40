package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/access"
	"github.com/spendflush/spendflush/internal/bounds"
	"github.com/spendflush/spendflush/internal/httpapi"
	"github.com/spendflush/spendflush/internal/tracing"
	"github.com/spendflush/spendflush/queues/redisqueue"
	"github.com/spendflush/spendflush/spend"
)

// settings are all that the environment can set. The tags, and settingBounds for numbers and
// durations, make `spendflush env` and the error messages.
type settings struct {
	DatabaseURL string `env:"DATABASE_URL" secret:"true" allowed:"postgres://user:password@host:port/database; several hosts with commas: the one that takes writes" help:"the database that the books are in"`
	RedisURL    string `env:"REDIS_URL" secret:"true" allowed:"redis://, rediss:// or unix:// URL; several hosts with commas (cluster); redis+sentinel://host:26379,host:26379/NAME" help:"the Redis that the queue and the lock are in"`
	UseRedis    bool   `env:"USE_REDIS_TRANSACTION_BUFFER" envDefault:"true" allowed:"true, false" help:"false: no Redis; every instance writes its own batches to Postgres, one at a time"`

	RedisTLSCA         string `env:"SPENDFLUSH_REDIS_TLS_CA_FILE" allowed:"a file of certificates in PEM; REDIS_URL must begin with rediss" help:"who signs the certificates of Redis and its sentinels (default: those that the system trusts)"`
	RedisTLSCert       string `env:"SPENDFLUSH_REDIS_TLS_CERT_FILE" allowed:"a certificate in PEM, with SPENDFLUSH_REDIS_TLS_KEY_FILE" help:"the client certificate for Redis and its sentinels, read anew for each connection"`
	RedisTLSKey        string `env:"SPENDFLUSH_REDIS_TLS_KEY_FILE" allowed:"a key in PEM, with SPENDFLUSH_REDIS_TLS_CERT_FILE" help:"the key of the client certificate"`
	RedisTLSServerName string `env:"SPENDFLUSH_REDIS_TLS_SERVER_NAME" allowed:"a host name" help:"the name that the certificates of Redis and its sentinels must have (default: the host that is connected to)"`

	Listen           string        `env:"SPENDFLUSH_LISTEN" envDefault:"127.0.0.1:4180" allowed:"host:port; a host that isn't loopback needs SPENDFLUSH_TOKENS or SPENDFLUSH_TOKENS_FILE" help:"address of the HTTP API"`
	TLSCert          string        `env:"SPENDFLUSH_TLS_CERT_FILE" allowed:"a certificate in PEM, those that lead to its authority after it; with SPENDFLUSH_TLS_KEY_FILE" help:"the HTTP API is served over TLS with it; it is read again when it changes (default: without TLS)"`
	TLSKey           string        `env:"SPENDFLUSH_TLS_KEY_FILE" allowed:"its key in PEM, without a password; with SPENDFLUSH_TLS_CERT_FILE" help:"the key of the certificate of the HTTP API, read again with it"`
	BasePath         string        `env:"SPENDFLUSH_BASE_PATH" envDefault:"/" allowed:"a path such as /spend, of at most 128 letters, digits and any of - . _ ~ between slashes, but no . or .. and not /healthz, /readyz or /metrics" help:"the page and the HTTP API are served below it; /healthz, /readyz and /metrics also without it"`
	MetricsListen    string        `env:"SPENDFLUSH_METRICS_LISTEN" allowed:"host:port, another than SPENDFLUSH_LISTEN" help:"address of a listener that serves /metrics alone, without a token or TLS, to whoever reaches it (default: none; the HTTP API serves them with a token)"`
	Tokens           []string      `env:"SPENDFLUSH_TOKENS" secret:"true" allowed:"bearer tokens of 16 characters or more, 8 of them different, with commas" help:"who may use the HTTP API, each with all roles"`
	Hosts            []string      `env:"SPENDFLUSH_HOSTS" allowed:"names and addresses without ports, with commas" help:"hosts under which the HTTP API answers, beside localhost and loopback addresses (default: any with tokens, else no others)"`
	Instance         string        `env:"SPENDFLUSH_INSTANCE" allowed:"1 to 128 characters without spaces or colons" help:"name of this instance (default: host name and process id)"`
	SealInterval     time.Duration `env:"SPENDFLUSH_SEAL_INTERVAL" envDefault:"200ms" help:"how often the sums in memory are sealed into a batch"`
	FlushInterval    time.Duration `env:"SPENDFLUSH_FLUSH_INTERVAL" envDefault:"500ms" help:"how long the lock holder lets batches gather from one flush to the next"`
	LockTTL          time.Duration `env:"SPENDFLUSH_LOCK_TTL" envDefault:"800ms" help:"how long the lock of a holder that died keeps others out"`
	Shards           int           `env:"SPENDFLUSH_SHARDS" envDefault:"1" help:"independent lanes, each with its own queue and lock; the same for all instances"`
	MaxKeys          int           `env:"SPENDFLUSH_MAX_KEYS" envDefault:"1000000" help:"distinct combinations in memory above which updates are refused"`
	MaxNewKeysPerDay int64         `env:"SPENDFLUSH_MAX_NEW_KEYS_PER_DAY" envDefault:"0" help:"new combinations and entities of one caller (a token where there are several, else an address) in a day of this instance above which its updates are refused; they are rows that stay in Postgres"`
	QueueMaxBytes    int64         `env:"SPENDFLUSH_QUEUE_MAX_BYTES" envDefault:"268435456" help:"bytes of a shard's queue in Redis above which batches stay in memory"`
	MaxConnections   int           `env:"SPENDFLUSH_MAX_CONNECTIONS" envDefault:"8" help:"connections to Postgres that this instance may open; up to three of eight are for the locks of direct writes"`
	MaxUnconfirmed   int           `env:"SPENDFLUSH_MAX_UNCONFIRMED_BYTES" envDefault:"67108864" help:"bytes of sealed batches in memory above which nothing is sealed and the sums go on growing"`
	MaxClients       int           `env:"SPENDFLUSH_MAX_CLIENTS" envDefault:"10000" help:"HTTP connections at once, half of them at most from one address; above that the one that is longest without a request is closed for a new one"`
	TrustedProxies   []string      `env:"SPENDFLUSH_TRUSTED_PROXIES" allowed:"addresses and networks such as 10.0.0.0/8, with commas" help:"proxies that may have all of the connections, and whose X-Forwarded-For is believed; only with tokens: without, what came through a proxy is refused"`
	QueueKey         string        `env:"SPENDFLUSH_QUEUE_KEY" secret:"true" allowed:"64 or more hexadecimal digits, random ones: openssl rand -hex 32; the same for all instances" help:"signs batches; those that it hasn't signed are never applied, but set aside in quarantine (default: none is signed or checked)"`
	QueueKeyAccepted string        `env:"SPENDFLUSH_QUEUE_KEY_ACCEPTED" secret:"true" allowed:"another key, or: unsigned; with SPENDFLUSH_QUEUE_KEY" help:"while the key is replaced, the other one, which is accepted and signs nothing; while the first key is introduced, unsigned batches are"`
	GapGrace         time.Duration `env:"SPENDFLUSH_GAP_GRACE" envDefault:"10m" help:"how long a batch waits for an earlier one of its producer before that is reported as lost and passed"`
	RewindWindow     time.Duration `env:"SPENDFLUSH_REWIND_WINDOW" envDefault:"0s" help:"how far back Postgres may be turned without loss; committed batches are kept for so long, in memory and in Redis"`
	IDWindow         time.Duration `env:"SPENDFLUSH_ID_WINDOW" envDefault:"864h" help:"for how long after its commit an id counts no second time; the same for all instances"`
	JournalDir       string        `env:"SPENDFLUSH_JOURNAL_DIR" allowed:"a directory of this instance alone" help:"keep sealed batches there until they are in Postgres, so that they survive the death of this process and Redis together (default: no journal)"`
	AuditInterval    time.Duration `env:"SPENDFLUSH_AUDIT_INTERVAL" envDefault:"24h" help:"how long after the last audit, whoever made it, one of the instances makes the next; it reads all the books"`
	RollupDimensions []string      `env:"SPENDFLUSH_ROLLUP_DIMENSIONS" envDefault:"model,model_group,custom_llm_provider,mcp_namespaced_tool_name,endpoint" allowed:"some of the default, with commas; none: 'none'" help:"dimensions that the rollup keeps apart"`
	DrainDelay       time.Duration `env:"SPENDFLUSH_DRAIN_DELAY" envDefault:"5s" help:"how long a stop goes on taking updates while /readyz says 503, so that balancers turn away first"`
	ShutdownTimeout  time.Duration `env:"SPENDFLUSH_SHUTDOWN_TIMEOUT" envDefault:"30s" help:"how long a stop may take to drain"`
	LiteLLMMetrics   bool          `env:"SPENDFLUSH_LITELLM_METRICS" envDefault:"true" allowed:"true, false" help:"tell the five metrics of LiteLLM's high-availability setup, too, by its names"`
	AccessLog        bool          `env:"SPENDFLUSH_ACCESS_LOG" envDefault:"false" allowed:"true, false" help:"log a line for every HTTP request once it is answered: at info, those of health checks and metrics at debug"`
	LogLevel         slog.Level    `env:"SPENDFLUSH_LOG_LEVEL" envDefault:"info" allowed:"debug, info, warn, error" help:"least level that is logged"`
	LogFormat        string        `env:"SPENDFLUSH_LOG_FORMAT" envDefault:"auto" allowed:"json, text, auto (text on a terminal)" help:"form of the log on standard error"`

	otel  tracing.Settings  // what the variables of OpenTelemetry switch on
	files map[string]string // of the secrets that files hold, by the name of the setting
	keys  *access.Keys      // what opens the API: Tokens, or those of the file
}

// settingBounds are what the settings may be that are numbers or durations, by field.
var settingBounds = map[string]bounds.Bound{
	"SealInterval":     bounds.SealInterval,
	"FlushInterval":    bounds.FlushInterval,
	"LockTTL":          bounds.Duration(500*time.Millisecond, 5*time.Minute),
	"Shards":           bounds.Shards,
	"MaxKeys":          bounds.MaxKeys,
	"MaxNewKeysPerDay": bounds.MaxNewKeysPerDay,
	"QueueMaxBytes":    bounds.Number(1<<20, bounds.NoEnd).OrZero("no bound"),
	"MaxConnections":   bounds.Number(4, 1000),
	"MaxUnconfirmed":   bounds.MaxUnconfirmedBytes,
	"MaxClients":       bounds.Number(1, 1_000_000),
	"GapGrace":         bounds.GapGrace,
	"RewindWindow":     bounds.RewindWindow,
	"IDWindow":         bounds.IDWindow,
	"AuditInterval":    bounds.Duration(time.Second, 720*time.Hour).OrZero("off"),
	"DrainDelay":       bounds.Duration(0, 5*time.Minute),
	"ShutdownTimeout":  bounds.Duration(100*time.Millisecond, time.Hour),
}

func (s *settings) redisTLS() redisqueue.TLS {
	return redisqueue.TLS{CAFile: s.RedisTLSCA, CertFile: s.RedisTLSCert, KeyFile: s.RedisTLSKey, ServerName: s.RedisTLSServerName}
}

// setting describes one field of settings.
type setting struct {
	field         reflect.StructField
	name, initial string
	allowed, help string
	secret        bool
}

func settingTable() []setting {
	var table []setting
	t := reflect.TypeFor[settings]()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		allowed := f.Tag.Get("allowed")
		if bound, ok := settingBounds[f.Name]; ok {
			allowed = bound.String()
		}
		table = append(table, setting{
			field: f, name: f.Tag.Get("env"), initial: f.Tag.Get("envDefault"),
			allowed: allowed, help: f.Tag.Get("help"), secret: f.Tag.Get("secret") != "",
		})
	}
	return table
}

// settingsError says all that is wrong with the environment, a line a variable.
type settingsError struct{ problems []string }

func (e *settingsError) add(format string, args ...any) {
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
}

func (e *settingsError) Error() string {
	return "settings:\n  " + strings.Join(e.problems, "\n  ")
}

// need says what a command can't do without.
type need uint8

const (
	needDatabase  need = 1 << iota
	needQueue          // unless it is switched off
	needRedis          // whether or not it is switched off
	standbyWillDo      // nothing is written to the database
)

// load reads the settings. The error is a usageError that names every problem.
func load(environ []string, n need) (*settings, error) {
	values := env.ToMap(environ)
	for name, value := range values {
		if strings.TrimSpace(value) == "" {
			delete(values, name) // set to nothing is not set
		}
	}
	s := &settings{}
	faults := &settingsError{problems: unknownSettings(values)}
	refused := s.readFiles(values, faults)
	err := env.ParseWithOptions(s, env.Options{Environment: values})
	if err != nil {
		var all env.AggregateError
		if !errors.As(err, &all) {
			return nil, usageError{err}
		}
		for _, one := range all.Errors {
			var fault env.ParseError
			if !errors.As(one, &fault) {
				return nil, usageError{one}
			}
			refused[fault.Name] = true
			s.refuse(faults, fault.Name, values)
		}
	}
	for _, field := range s.wrong(n) {
		if !refused[field] {
			s.refuse(faults, field, values)
		}
	}
	if s.otel, err = tracing.FromEnviron(environ); err != nil {
		faults.problems = append(faults.problems, strings.Split(err.Error(), "\n")...)
	}
	if len(faults.problems) > 0 {
		slices.Sort(faults.problems)
		return nil, usageError{faults}
	}
	if err := s.makeKeys(); err != nil {
		return nil, usageError{&settingsError{problems: []string{"SPENDFLUSH_TOKENS: " + err.Error()}}}
	}
	s.BasePath, _ = httpapi.CleanBasePath(s.BasePath) // it is allowed
	if s.Instance == "" {
		host, _ := os.Hostname()
		s.Instance = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if slices.Equal(s.RollupDimensions, []string{"none"}) {
		s.RollupDimensions = []string{}
	}
	s.UseRedis = s.UseRedis || n&needRedis != 0
	return s, nil
}

// refuse adds to the faults that the value of a field isn't allowed. One that is secret isn't
// shown.
func (s *settings) refuse(faults *settingsError, field string, values map[string]string) {
	table := settingTable()
	t := table[slices.IndexFunc(table, func(t setting) bool { return t.field.Name == field })]
	value := fmt.Sprintf("%q", values[t.name])
	if t.secret {
		value = "the value (not shown)"
	}
	_, isSet := values[t.name]
	switch {
	case !isSet && t.secret:
		faults.add("%s: is not set, nor is %s; allowed: %s", t.name, t.fileName(), t.allowed)
	case !isSet:
		faults.add("%s: is not set; allowed: %s", t.name, t.allowed)
	default:
		faults.add("%s: %s is not allowed; allowed: %s", s.nameOf(t.name), value, t.allowed)
	}
}

// makeKeys makes the keys of the API of the tokens in the settings. Those of a file are made
// already.
func (s *settings) makeKeys() error {
	if s.keys != nil {
		return nil
	}
	list, err := access.Plain(s.Tokens...)
	s.keys = access.NewKeys(list)
	return err
}

// wrong returns the names of the fields whose values aren't allowed.
func (s *settings) wrong(n need) (fields []string) {
	check := func(field string, ok bool) {
		if !ok {
			fields = append(fields, field)
		}
	}
	for field, bound := range settingBounds {
		check(field, bound.Has(reflect.ValueOf(s).Elem().FieldByName(field).Int()))
	}
	check("DatabaseURL", s.DatabaseURL != "" || n&needDatabase == 0)
	check("RedisURL", s.RedisURL != "" || n&needRedis == 0 && (n&needQueue == 0 || !s.UseRedis))
	check("Listen", s.listenAllowed())
	check("TLSCert", s.TLSCert != "" || s.TLSKey == "")
	check("TLSKey", s.TLSKey != "" || s.TLSCert == "")
	_, err := httpapi.CleanBasePath(s.BasePath)
	check("BasePath", err == nil)
	check("MetricsListen", s.metricsListenAllowed())
	check("Tokens", !slices.ContainsFunc(s.Tokens, func(text string) bool { return !access.IsAllowed(text) }))
	check("Hosts", !slices.ContainsFunc(s.Hosts, func(host string) bool { return !isHost(host) }))
	check("Instance", len(s.Instance) <= 128 && !strings.ContainsAny(s.Instance, " \t\r\n:"))
	_, err = s.trustedProxies()
	check("TrustedProxies", err == nil)
	check("QueueKey", isQueueKey(s.QueueKey))
	check("QueueKeyAccepted", s.QueueKeyAccepted == "" || s.QueueKey != "" && (s.QueueKeyAccepted == unsignedAccepted || isQueueKey(s.QueueKeyAccepted)))
	check("RollupDimensions", slices.Equal(s.RollupDimensions, []string{"none"}) ||
		!slices.ContainsFunc(s.RollupDimensions, func(d string) bool { return !slices.Contains(spend.DimensionNames(), d) }))
	check("LogFormat", slices.Contains([]string{"json", "text", "auto"}, s.LogFormat))
	return fields
}

// lockConnections returns how many of MaxConnections are for direct locks: one for each shard, but
// no more than leave as many for the flushes made under them, and two for reads.
func (s *settings) lockConnections() int { return max(1, min(s.Shards, (s.MaxConnections-2)/2)) }

// unsignedAccepted stands in place of a key for batches without signature.
const unsignedAccepted = "unsigned"

func isQueueKey(text string) bool {
	key, err := hex.DecodeString(text)
	return err == nil && (&spend.BatchKeys{Key: key}).Validate() == nil
}

// batchKeys returns the keys of settings that were checked.
func (s *settings) batchKeys() (keys spend.BatchKeys) {
	keys.Key, _ = hex.DecodeString(s.QueueKey)
	if keys.Unsigned = s.QueueKeyAccepted == unsignedAccepted; !keys.Unsigned {
		keys.Accepted, _ = hex.DecodeString(s.QueueKeyAccepted)
	}
	return keys
}

// isHost says whether the text can be the host of a request, without a port.
func isHost(text string) bool {
	if net.ParseIP(text) != nil {
		return true
	}
	return text != "" && !strings.ContainsAny(text, " \t\r\n/:@*[]")
}

// listenAllowed: without tokens only this machine may connect.
func (s *settings) listenAllowed() bool {
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil || port == "" {
		return false
	}
	ip := net.ParseIP(host)
	return len(s.Tokens) > 0 || s.keys.Any() || host == "localhost" || ip != nil && ip.IsLoopback()
}

// metricsListenAllowed: the host may be any, as whoever sets it means to have no token there.
func (s *settings) metricsListenAllowed() bool {
	if s.MetricsListen == "" {
		return true
	}
	_, port, err := net.SplitHostPort(s.MetricsListen)
	return err == nil && port != "" && (s.MetricsListen != s.Listen || port == "0")
}

// trustedProxies returns the networks of the proxies.
func (s *settings) trustedProxies() (networks []netip.Prefix, err error) {
	for _, text := range s.TrustedProxies {
		address, err := netip.ParseAddr(text)
		if err == nil {
			networks = append(networks, netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()))
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// What direct locks leave is shared out, so that readers never keep a flush or an acknowledgement
// waiting: a flush of each shard and two looks at the marks have theirs, at least two are for
// readers, and so is the rest.
func (s *settings) readConnections() int {
	return max(2, s.MaxConnections-s.lockConnections()-s.Shards-2)
}

func (s *settings) flushConnections() int {
	return s.MaxConnections - s.lockConnections() - s.readConnections()
}

// maxReports is how many long reports are read at once. One connection of the readers' is left to
// look-ups.
func (s *settings) maxReports() int { return min(4, s.readConnections()-1) }

func (p *program) envCommand() *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: "Print all settings with their defaults", Args: noArgs,
		Long: `Print all settings, which are environment variables, with their defaults and what is allowed. It says nothing of what
is set. Variables of OpenTelemetry (OTEL_…) count as well; docs/tracing.md lists them. Exit status: 0.`,
		Example: `  spendflush env
  spendflush env | grep LOCK`,
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "VARIABLE\tDEFAULT\tALLOWED\tMEANING")
			for _, t := range settingTable() {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.name, t.initial, t.allowed, t.help)
				if t.secret {
					fmt.Fprintf(w, "%s\t\t%s\t%s\n", t.fileName(), t.allowedFile(), t.fileHelp())
				}
			}
			return w.Flush()
		},
	}
}
