package httpapi

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// traffic is what is counted of requests.
type traffic struct {
	responses [600]atomic.Int64 // by status
}

func (t *traffic) answered(status int) {
	if status >= 0 && status < len(t.responses) {
		t.responses[status].Add(1)
	}
}

var (
	descResponses = prometheus.NewDesc("spendflush_http_responses_total", "HTTP requests answered, by status. 499: the client left before.", []string{"code"}, nil)
	descConns     = prometheus.NewDesc("spendflush_http_connections", "HTTP connections open.", nil, nil)
	descConnLimit = prometheus.NewDesc("spendflush_http_connections_limit", "HTTP connections above which the one that is longest without a request is closed for a new one.", nil, nil)
	descConnEnds  = prometheus.NewDesc("spendflush_http_connections_closed_total", "HTTP connections closed because there were too many, by why: too many in all, of one address, or all of them at work.", []string{"reason"}, nil)
	descBodies    = prometheus.NewDesc("spendflush_http_body_bytes", "Bytes of request bodies in memory, above the first 32 KiB of each.", nil, nil)
	descBodyLimit = prometheus.NewDesc("spendflush_http_body_bytes_limit", "Bytes of request bodies above which requests are answered with 503.", nil, nil)
	descRefused   = prometheus.NewDesc("spendflush_http_unauthorized_total", "Requests refused because no token came with them that counts, a wrong one, or one that was not looked at after too many wrong ones.", []string{"reason"}, nil)
	descBooked    = prometheus.NewDesc("spendflush_http_updates_total", "Updates recorded over HTTP, by the name of the token they came with; without tokens there is none.", []string{"token"}, nil)
	descTokens    = prometheus.NewDesc("spendflush_http_tokens", "Tokens that open the HTTP API.", nil, nil)
	descStale     = prometheus.NewDesc("spendflush_http_tokens_stale", "1 while SPENDFLUSH_TOKENS_FILE can't be read or has what isn't allowed, so that the tokens of before go on counting.", nil, nil)
	descWorking   = prometheus.NewDesc("spendflush_http_working", "Requests of a costly kind being answered.", []string{"kind"}, nil)
	descWorkLimit = prometheus.NewDesc("spendflush_http_working_limit", "Requests of a costly kind at once above which more are answered with 503.", []string{"kind"}, nil)
)

// Collector tells the metrics of the API.
func (a *API) Collector() prometheus.Collector { return collector{a} }

type collector struct{ a *API }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descResponses, descConns, descConnLimit, descConnEnds, descBodies, descBodyLimit, descRefused, descBooked, descTokens, descStale, descWorking, descWorkLimit} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for status := range c.a.traffic.responses {
		if n := c.a.traffic.responses[status].Load(); n > 0 {
			ch <- prometheus.MustNewConstMetric(descResponses, prometheus.CounterValue, float64(n), strconv.Itoa(status))
		}
	}
	g := c.a.guesses
	for reason, n := range map[string]int64{"missing": g.missing.Load(), "wrong": g.wrong.Load(), "paused": g.paused.Load()} {
		ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(n), reason)
	}
	keys := c.a.cfg.Keys
	for name, n := range keys.Now().Booked() {
		ch <- prometheus.MustNewConstMetric(descBooked, prometheus.CounterValue, float64(n), name)
	}
	gauge(descTokens, int64(keys.Now().Len()))
	var stale int64
	if keys.IsStale() {
		stale = 1
	}
	gauge(descStale, stale)
	conns := c.a.gate.Stats()
	gauge(descConns, int64(conns.Open))
	gauge(descConnLimit, int64(conns.Limit))
	for reason, n := range map[string]int64{"full": conns.ClosedFull, "address": conns.ClosedAddress, "refused": conns.Refused} {
		ch <- prometheus.MustNewConstMetric(descConnEnds, prometheus.CounterValue, float64(n), reason)
	}
	gauge(descBodies, c.a.bodies.inUse())
	gauge(descBodyLimit, c.a.bodies.limit)
	for kind, s := range map[string]*places{"spend": c.a.spends, "report": c.a.reports, "look": c.a.looks, "stream": c.a.streams, "scrape": c.a.scrapes, "decode": c.a.decodes} {
		gauge(descWorking, int64(s.held()), kind)
		gauge(descWorkLimit, int64(s.size), kind)
	}
}
