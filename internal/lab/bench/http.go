package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/spendflush/spendflush/internal/access"
	"github.com/spendflush/spendflush/internal/httpapi"
	"github.com/spendflush/spendflush/internal/lab/load"
	"github.com/spendflush/spendflush/spend"
	"github.com/spendflush/spendflush/sql/pgstore"
)

const httpAbout = `Sixteen connections over loopback send POST /v1/updates with a token and wait for each answer. **api** is an instance's HTTP server, with a
running instance, Redis and Postgres behind it; the books are compared afterwards. **body only** is a handler of net/http that reads the body and
answers as much. Clients, server, Redis and Postgres share the cores.`

const (
	httpConnections = 16
	httpToken       = "benchmark-token"
)

var httpSizes = []int{1, 100}

func httpSteps(r *run) int { return 2 * r.Rounds * len(httpSizes) }

func measureHTTP(ctx context.Context, r *run) error {
	w, err := load.New(load.Shape{Seed: 1, Keys: 100})
	if err != nil {
		return err
	}
	t := Table{Part: "http", Title: "Over HTTP", About: httpAbout, Columns: []string{"updates/s", "requests/s", "of body only"}}
	for _, n := range httpSizes {
		request, err := requestOf(w, n)
		if err != nil {
			return err
		}
		what := "one update a request"
		if n > 1 {
			what = fmt.Sprintf("arrays of %d", n)
		}
		got, err := r.compare(ctx, r.Rounds, []variant{
			{what + ", api", func(ctx context.Context) (map[string]float64, error) { return r.api(ctx, w, n, request) }},
			{what + ", body only", func(ctx context.Context) (map[string]float64, error) { return r.bodyOnly(ctx, n, request) }},
		})
		if err != nil {
			return err
		}
		api, bare := got[what+", api"], got[what+", body only"]
		part := ratios(api["requests"], bare["requests"])
		t.row(what+", api", api["updates"], api["requests"], part)
		t.row(what+", body only", nil, bare["requests"], nil)
		if n == 1 {
			r.report.atLeast("http", what+" / a handler that reads the body", "", 0.6, part)
		} else {
			r.report.atLeast("http", what+", updates/s", "", 200_000, api["updates"])
		}
	}
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

// requestOf is a request with the first n updates of the workload.
func requestOf(w *load.Workload, n int) ([]byte, error) {
	updates := make([]spend.Update, n)
	for i := range updates {
		updates[i] = w.Update(uint64(i))
	}
	var body []byte
	var err error
	if n == 1 {
		body, err = json.Marshal(updates[0])
	} else {
		body, err = json.Marshal(updates)
	}
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "POST /v1/updates HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n"+
		"User-Agent: bench\r\nAccept: */*\r\nContent-Length: %d\r\n\r\n%s", httpToken, len(body), body), nil
}

// api returns a server for the first instance, not started yet, and what ends what it reads from.
func (g *group) api(ctx context.Context) (server *http.Server, done func(), err error) {
	tokens, err := access.Plain(httpToken)
	if err != nil {
		return nil, nil, err
	}
	store, err := pgstore.Open(ctx, g.env.databaseURL, pgstore.Options{})
	if err != nil {
		return nil, nil, err
	}
	api, err := httpapi.New(httpapi.Config{
		Recorder: g.instances[0].pipeline, Reader: store, Registry: prometheus.NewRegistry(), Keys: access.NewKeys(tokens),
	})
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return api.Server("127.0.0.1:0"), store.Close, nil
}

// wantBooked sees that the books have as many updates as were acknowledged.
func (r *run) wantBooked(ctx context.Context, want int64) error {
	var booked int64
	if err := r.env.pool.QueryRow(ctx, "SELECT coalesce(sum(api_requests), 0)::bigint FROM spendflush.spend WHERE entity_type = 'api_key'").Scan(&booked); err != nil {
		return fmt.Errorf("read the totals: %w", err)
	}
	if booked != want {
		return fmt.Errorf("%w: %d updates were acknowledged, %d are booked", ErrWrongBooks, want, booked)
	}
	return nil
}

// api floods an instance's HTTP server.
func (r *run) api(ctx context.Context, w *load.Workload, n int, request []byte) (numbers map[string]float64, err error) {
	g, err := r.env.group(ctx, groupConfig{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.end(ctx)) }()
	server, done, err := g.api(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	rate, sent, err := r.floodHTTP(ctx, server, request)
	if err != nil {
		return nil, err
	}
	if err := g.drain(ctx); err != nil {
		return nil, err
	}
	if err := r.wantBooked(ctx, sent*int64(n)); err != nil {
		return nil, err
	}
	return map[string]float64{"requests": rate, "updates": rate * float64(n)}, nil
}

func (r *run) bodyOnly(ctx context.Context, n int, request []byte) (map[string]float64, error) {
	answer := fmt.Appendf(nil, "{\"updates\":%d,\"reached\":\"accepted\"}\n", n)
	rate, _, err := r.floodHTTP(ctx, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(answer) // a client that is gone misses it
	})}, request)
	return map[string]float64{"requests": rate}, err
}

// floodHTTP sends the request on all connections for as long as a measurement takes, and returns
// how many a second and how many were answered with 202. Any other answer is an error.
func (r *run) floodHTTP(ctx context.Context, server *http.Server, request []byte) (rate float64, sent int64, err error) {
	return r.floodRequests(ctx, server, func() func() []byte { return func() []byte { return request } })
}

// floodRequests is floodHTTP with requests of which each connection makes its own, all of the same
// length.
func (r *run) floodRequests(ctx context.Context, server *http.Server, requests func() func() []byte) (rate float64, sent int64, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		err = errors.Join(err, server.Close())
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}()
	var count atomic.Int64
	var clients errgroup.Group
	begun := time.Now()
	for range httpConnections {
		clients.Go(func() error {
			n, err := client(ctx, listener.Addr().String(), requests(), begun.Add(r.Duration))
			count.Add(n)
			return err
		})
	}
	if err := clients.Wait(); err != nil {
		return 0, 0, err
	}
	return float64(count.Load()) / time.Since(begun).Seconds(), count.Load(), nil
}

// client is one connection. The answers all have the length of the first one, but those of an
// instance that can't take more: then the request is made again a moment later, as a client would.
func client(ctx context.Context, address string, request func() []byte, end time.Time) (sent int64, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	answer := make([]byte, 4096)
	size := 0
	for next := request(); sent == 0 || time.Now().Before(end); {
		if _, err := conn.Write(next); err != nil {
			return sent, err
		}
		n, err := conn.Read(answer) // a small answer comes in one piece
		if err == nil && bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 503 ")) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if size == 0 {
			size = n
		} else if n < size && err == nil {
			_, err = io.ReadFull(conn, answer[n:size])
		}
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 202 ")) {
			return sent, errors.Join(fmt.Errorf("a request was answered with %.300q", answer[:n]), err)
		}
		sent++
		next = request()
	}
	return sent, ctx.Err()
}
