package httpapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
)

const (
	freeBodyBytes   = 32 << 10 // a body up to this size isn't counted: connections bound the number of these
	pooledBodyBytes = 1 << 20  // what is larger is left to the garbage collector
	pooledUpdates   = 2048
)

// intake is what one request with updates needs, to be used again.
type intake struct {
	decoder
	buffer []byte
	taken  int64 // of the budget for bodies
}

func newIntake(maxUpdates int) *intake {
	return &intake{decoder: decoder{maxUpdates: maxUpdates}, buffer: make([]byte, 0, 4<<10)}
}

func (a *API) putIntake(in *intake) {
	a.bodies.give(in.taken)
	in.taken = 0
	if cap(in.buffer) > pooledBodyBytes || cap(in.updates) > pooledUpdates {
		return
	}
	in.reset()
	a.intakes.Put(in)
}

// read reads the body into the intake's buffer. It grows with what has arrived, not with what the header promises.
func (a *API) read(in *intake, w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	limit := a.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return nil, a.tooLarge().with("Connection", "close")
	}
	source := http.MaxBytesReader(w, r.Body, limit)
	body := in.buffer[:0]
	defer func() { in.buffer = body[:0] }()
	for {
		if len(body) == cap(body) {
			size := min(int64(cap(body))*2, limit+1)
			if more := size - freeBodyBytes - in.taken; more > 0 {
				if !a.bodies.take(more) {
					p := busy.because("the bodies of all requests together take as much memory as they may; nothing was recorded")
					p.retryAfter = retrySoon
					return nil, p
				}
				in.taken += more
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := source.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			return body, nil
		}
		if err != nil {
			return nil, a.readProblem(err)
		}
	}
}

func (a *API) tooLarge() *problem {
	return contentTooLarge.because("the body is larger than %d bytes; nothing was recorded, send it in parts", a.cfg.MaxBodyBytes)
}

func (a *API) readProblem(err error) *problem {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return a.tooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return requestTimeout.because("the body didn't arrive within %s; nothing was recorded", a.cfg.ReadTimeout).with("Connection", "close")
	}
	return invalidRequest.because("the body ends too early; nothing was recorded").with("Connection", "close")
}

// formatOf returns how the body carries updates.
func formatOf(h http.Header) (format, *problem) {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return 0, unsupportedMediaType.because("Content-Encoding %.40q is not supported; send the body as it is", encoding).
			with("Accept-Encoding", "identity")
	}
	given := h.Get("Content-Type")
	media, parameters, _ := strings.Cut(given, ";")
	name, value, _ := strings.Cut(strings.TrimSpace(parameters), "=")
	utf8 := name == "" && value == "" || strings.EqualFold(name, "charset") && strings.EqualFold(strings.Trim(value, `"`), "utf-8")
	switch media = strings.TrimSpace(media); {
	case utf8 && strings.EqualFold(media, "application/json"):
		return formatJSON, nil
	case utf8 && strings.EqualFold(media, "application/x-ndjson"):
		return formatNDJSON, nil
	}
	return 0, unsupportedMediaType.because("Content-Type is %.80q; allowed are application/json and application/x-ndjson, in UTF-8", given)
}
