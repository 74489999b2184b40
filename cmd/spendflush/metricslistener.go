package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
)

// metricsListener serves /metrics alone, without a token.
type metricsListener struct {
	listener net.Listener
	server   *http.Server // nil: it isn't served yet
}

// listenForMetrics listens on SPENDFLUSH_METRICS_LISTEN; nil if that isn't set.
func listenForMetrics(address string) (*metricsListener, error) {
	if address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("SPENDFLUSH_METRICS_LISTEN: %w", err)
	}
	return &metricsListener{listener: listener}, nil
}

// serve returns when close is called, or with an error.
func (m *metricsListener) serve(log *slog.Logger) error {
	log.Info("metrics without a token", "listen", m.listener.Addr().String())
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// close ends serve, and closes the listener in any case.
func (m *metricsListener) close() {
	if m == nil {
		return
	}
	if m.server != nil {
		_ = m.server.Close()
	}
	_ = m.listener.Close()
}
