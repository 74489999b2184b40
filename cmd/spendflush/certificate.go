package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/spendflush/spendflush/internal/keypair"
)

// keyPair returns what the API is served over TLS with, nil if it is served without.
func (s *settings) keyPair() (*keypair.Pair, error) {
	if s.TLSCert == "" {
		return nil, nil
	}
	pair, err := keypair.Open(s.TLSCert, s.TLSKey)
	if err != nil {
		return nil, usageError{&settingsError{problems: []string{"SPENDFLUSH_TLS_CERT_FILE, SPENDFLUSH_TLS_KEY_FILE: " + err.Error()}}}
	}
	return pair, nil
}

var (
	descCertStale = partDesc("spendflush_http_certificate_stale", "1 while SPENDFLUSH_TLS_CERT_FILE and SPENDFLUSH_TLS_KEY_FILE can't be read again or don't go together, so that the certificate of before is served.")
	descCertEnds  = partDesc("spendflush_http_certificate_expires_timestamp_seconds", "When the certificate that is served expires, in Unix time; 0 without TLS.")
)

// certificateCollector tells how the certificate of the API is.
type certificateCollector struct{ pair *keypair.Pair }

// Describe implements prometheus.Collector.
func (c certificateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descCertStale
	ch <- descCertEnds
}

// Collect implements prometheus.Collector.
func (c certificateCollector) Collect(ch chan<- prometheus.Metric) {
	var stale, ends float64
	if c.pair != nil {
		ends = float64(c.pair.Expires().Unix())
		if c.pair.IsStale() {
			stale = 1
		}
	}
	ch <- prometheus.MustNewConstMetric(descCertStale, prometheus.GaugeValue, stale)
	ch <- prometheus.MustNewConstMetric(descCertEnds, prometheus.GaugeValue, ends)
}
