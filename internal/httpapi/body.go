package httpapi

import (
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	freeBodyBytes   = 32 << 10 // a body up to this size isn't counted: connections bound the number of these
	freeDecodeBytes = 1 << 10  // a body up to this size is decoded without a place for it

	// What is larger is left to the garbage collector: a body that comes slowly would hold it.
	pooledBodyBytes = 64 << 10
	pooledUpdates   = 2048
)

// requestBody is what the body of one request with updates needs, to be used again.
type requestBody struct {
	buffer []byte
	holder holder // what the body takes of the memory for bodies
}

func (a *API) putBody(in *requestBody) {
	a.bodies.give(&in.holder)
	in.holder = holder{}
	if cap(in.buffer) <= pooledBodyBytes {
		a.requestBodies.Put(in)
	}
}

// beginDecoding returns a decoder for a body of n bytes, which end gives back. Updates take up to
// fifty times as much memory as their text, so that few bodies are decoded at once.
func (a *API) beginDecoding(w http.ResponseWriter, r *http.Request, n int) (d *decoder, end func(), p *problem) {
	giveBack := func() {}
	if n > freeDecodeBytes {
		who := a.partyOf(w, r)
		if p := a.decodes.take(r.Context(), who); p != nil {
			return nil, nil, p
		}
		giveBack = func() { a.decodes.give(who) }
	}
	d = a.decoders.Get().(*decoder)
	return d, func() {
		if cap(d.updates) <= pooledUpdates {
			d.reset()
			a.decoders.Put(d)
		}
		giveBack()
	}, nil
}

// read reads the body into the intake's buffer, inflated if it is compressed. What is used of it
// grows with what has arrived, not with what the header promises. All bounds are of what ends up in
// the buffer; what is sent has the same.
func (a *API) read(in *requestBody, w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	limit := a.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return nil, a.tooLarge()
	}
	source := bodySource{Reader: http.MaxBytesReader(w, r.Body, limit), length: r.ContentLength}
	if gzipped, _ := isGzipped(r.Header); gzipped {
		if p := a.takeMemory(in, w, r, inflaterBytes); p != nil {
			return nil, p
		}
		source.inflate()
		defer source.zip.close()
	}

	body := in.buffer[:0]
	defer func() { in.buffer = body[:0] }()
	room := min(cap(body), freeBodyBytes)
	pace := pace{config: &a.cfg}
	for {
		if len(body) == room {
			size := min(int64(room)*2, limit+1)
			if source.length > 0 { // one more byte, to see the end
				size = min(size, source.length+1)
			}
			if p := a.takeMemory(in, w, r, size-max(freeBodyBytes, int64(room))); p != nil {
				return nil, p
			}
			room = int(size)
			if room > cap(body) {
				body = append(make([]byte, 0, room), body...)
			}
		}
		n, err := source.Read(body[len(body):room])
		body = body[:len(body)+n]
		if int64(len(body)) > limit {
			return nil, a.tooLarge()
		}
		if err == io.EOF {
			return body, nil
		}
		if in.holder.bytes > 0 {
			pace.extend(w, source.came(len(body)))
			if !a.bodies.hear(&in.holder, pace.now) {
				return nil, gaveUp()
			}
		}
		if err != nil {
			return nil, a.readProblem(err)
		}
	}
}

// bodySource is what a body is read from.
type bodySource struct {
	io.Reader
	length int64     // of what it gives, -1 if that isn't known
	zip    *inflater // nil if the body isn't compressed
}

func (s *bodySource) inflate() {
	s.zip = inflate(s.Reader)
	s.Reader, s.length = s.zip, -1
}

// came is how much of the body has been sent, by the time that n bytes of it were read.
func (s *bodySource) came(n int) int {
	if s.zip != nil {
		return int(s.zip.came)
	}
	return n
}

// takeMemory takes n more bytes for the body, if that is above 0.
func (a *API) takeMemory(in *requestBody, w http.ResponseWriter, r *http.Request, n int64) *problem {
	if n <= 0 {
		return nil
	}
	if in.holder.bytes == 0 {
		in.holder.who = a.partyOf(w, r)
		in.holder.cutOff = func() { _ = http.NewResponseController(w).SetReadDeadline(longAgo) }
	}
	if a.bodies.take(r.Context(), &in.holder, n) {
		return nil
	}
	p := busy.because("the bodies of all requests together, or of yours, take as much memory as they may; nothing was recorded")
	p.retryAfter = retrySoon
	return p
}

var longAgo = time.Unix(1, 0)

// pace is how fast a long body must come.
type pace struct {
	config     *Config
	start, now time.Time
}

// extend gives the body of which n bytes have come its next deadline: it may fall silent for as
// long as it may take to begin, must keep the least rate from then on, and be there in ReadTimeout.
func (p *pace) extend(w http.ResponseWriter, n int) {
	p.now = time.Now()
	if p.start.IsZero() {
		p.start = p.now // some 32 KiB late
	}
	c := p.config
	silent := p.now.Add(c.BodyGrace)
	slow := p.start.Add(c.BodyGrace + time.Duration(int64(n)*int64(time.Second)/c.LeastRate))
	late := p.start.Add(c.ReadTimeout)
	next := silent
	for _, other := range []time.Time{slow, late} {
		if other.Before(next) {
			next = other
		}
	}
	_ = http.NewResponseController(w).SetReadDeadline(next) // an error means that there is no connection, as in a test
}

func gaveUp() *problem {
	return requestTimeout.because("the body fell silent while its memory was needed; nothing was recorded, send it again")
}

func (a *API) tooLarge() *problem {
	return contentTooLarge.because("the body is larger than %d bytes; nothing was recorded, send it in parts", a.cfg.MaxBodyBytes)
}

func (a *API) readProblem(err error) *problem {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return a.tooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return requestTimeout.because("the body came too slowly: want %d bytes a second after %s, and all of it within %s; nothing was recorded",
			a.cfg.LeastRate, a.cfg.BodyGrace, a.cfg.ReadTimeout)
	}
	if isCorrupt(err) {
		return invalidRequest.because("the body is not the gzip stream that Content-Encoding promises: %v; nothing was recorded", err)
	}
	return invalidRequest.because("the body ends too early; nothing was recorded")
}

// isCorrupt says whether the fault is in what was to be inflated.
func isCorrupt(err error) bool {
	for _, fault := range []error{gzip.ErrHeader, gzip.ErrChecksum, errNoContent, errMembers} {
		if errors.Is(err, fault) {
			return true
		}
	}
	_, ok := errors.AsType[flate.CorruptInputError](err)
	return ok
}

// isGzipped reads Content-Encoding.
func isGzipped(h http.Header) (bool, *problem) {
	switch encoding := strings.Join(h.Values("Content-Encoding"), ","); strings.ToLower(encoding) {
	case "", "identity":
		return false, nil
	case "gzip", "x-gzip":
		return true, nil
	default:
		return false, unsupportedMediaType.because("Content-Encoding %.40q is not supported; send the body as it is, or with gzip", encoding).
			with("Accept-Encoding", "gzip, identity")
	}
}

// formatOf returns how the body carries updates.
func formatOf(h http.Header) (format, *problem) {
	if _, p := isGzipped(h); p != nil {
		return 0, p
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
