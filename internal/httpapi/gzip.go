package httpapi

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipFrom is the length from which an answer is worth to be compressed: what is shorter fits into
// a packet or two as it is.
const gzipFrom = 2 << 10

// gzipWriters are used again: each takes about a megabyte. The fastest level makes a report eight
// times as short already.
var gzipWriters = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // there is such a level
	return z
}}

// acceptsGzip says whether the client of an answer takes it compressed.
func acceptsGzip(w http.ResponseWriter) bool {
	answer, ok := w.(*answer)
	return ok && answer.takesGzip
}

// takesGzip reads Accept-Encoding.
func takesGzip(h http.Header) bool {
	rest := false
	for coding := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		key, value, _ := strings.Cut(strings.TrimSpace(weight), "=")
		isTaken := true
		if strings.EqualFold(strings.TrimSpace(key), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			isTaken = err == nil && q > 0
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip":
			return isTaken
		case "*":
			rest = isTaken
		}
	}
	return rest
}

// compressed returns the body of an answer as it is sent, and says so in its header. It may be sent
// to clients that take it otherwise, so caches are told what it depends on.
func compressed(w http.ResponseWriter, body []byte) []byte {
	if len(body) < gzipFrom {
		return body
	}
	w.Header().Add("Vary", "Accept-Encoding")
	if !acceptsGzip(w) {
		return body
	}

	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	var out bytes.Buffer
	z.Reset(&out)
	_, _ = z.Write(body) // a buffer takes everything
	_ = z.Close()
	w.Header().Set("Content-Encoding", "gzip")
	return out.Bytes()
}

// inflaterBytes is what a body takes of the memory for bodies while it is inflated, beside what it
// is inflated to: the last 32 KiB of it, tables, buffers, and a field of the head of up to 64 KiB.
const inflaterBytes = 128 << 10

// emptyBytes is how much of a compressed body may come without anything being inflated from it,
// beside twice of what was. An inflater holds back up to 32 KiB.
const emptyBytes = 128 << 10

// Faults of a compressed body.
var (
	errNoContent = errors.New("too much of it holds nothing")
	errMembers   = errors.New("it has more than one member, or something behind it")
)

// inflater reads what a gzip stream of one member holds.
type inflater struct {
	from     io.Reader
	buffer   *bufio.Reader // of counted
	zip      *gzip.Reader  // of buffer
	begun    bool          // the head has been read
	err      error         // that ended it
	came     int64         // bytes of the stream
	inflated int64
}

// counted notes what has come of the stream, and ends one that holds nothing.
type counted struct{ of *inflater }

func (c counted) Read(p []byte) (int, error) {
	f := c.of
	if f.came > 2*f.inflated+emptyBytes {
		return 0, errNoContent
	}
	n, err := f.from.Read(p)
	f.came += int64(n)
	return n, err
}

var inflaters = sync.Pool{New: func() any {
	f := &inflater{zip: new(gzip.Reader)}
	f.buffer = bufio.NewReaderSize(counted{f}, 4<<10)
	return f
}}

// inflate returns an inflater of the stream, which close gives back.
func inflate(from io.Reader) *inflater {
	f := inflaters.Get().(*inflater)
	f.from, f.begun, f.err, f.came, f.inflated = from, false, nil, 0, 0
	f.buffer.Reset(counted{f})
	return f
}

// Read fails with io.EOF at the end of the stream, if that is the end of the body too.
func (f *inflater) Read(p []byte) (n int, err error) {
	if !f.begun {
		f.begun = true
		f.err = f.begin()
	}
	if f.err != nil {
		return 0, f.err
	}

	n, f.err = f.zip.Read(p)
	f.inflated += int64(n)
	if f.err == io.EOF {
		if _, err := f.buffer.ReadByte(); err == nil {
			f.err = errMembers
		} else {
			f.err = err // io.EOF, or why that can't be known
		}
	}
	return n, f.err
}

// begin reads the head of the stream.
func (f *inflater) begin() error {
	err := f.zip.Reset(f.buffer)
	f.zip.Multistream(false)
	if err == io.EOF { // before the end of the head
		return io.ErrUnexpectedEOF
	}
	return err
}

func (f *inflater) close() {
	f.from = nil
	inflaters.Put(f)
}
