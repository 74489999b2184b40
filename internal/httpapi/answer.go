package httpapi

import (
	"io"
	"net/http"
	"time"

	"github.com/spendflush/spendflush/internal/gate"
)

// answer notes what was answered, and how much of the request's body was read before that.
type answer struct {
	http.ResponseWriter
	status int // 0 while there is none
	bytes  int64
	body   body
	from   caller // once it is known

	route     *route // what was asked for, nil if there is no such thing, or as long as nothing is known
	requestID string // "" if it has none
	came      time.Time
	span      Span // nil if it isn't traced

	takesGzip    bool // the client does
	pieceTimeout time.Duration
	holding      *holding // the place that it has until it is written; nil if it has none
}

// pieceBytes is how much of a long answer a client must take within Config.PieceTimeout.
const pieceBytes = 32 << 10

// WriteHeader begins the answer. One that is given before the body's end is the last on its
// connection: net/http would wait for the rest of the body otherwise, and the client may never send
// it.
func (w *answer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		if w.body.isUnread() {
			w.Header().Set("Connection", "close")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write writes b, an answer that is long or has a place in pieces, each with a deadline of its own.
func (w *answer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.holding == nil && len(b) < pieceBytes && w.bytes < pieceBytes {
		n, err := w.ResponseWriter.Write(b)
		w.bytes += int64(n)
		return n, err
	}

	written := 0
	for written < len(b) {
		n, err := w.writePiece(b[written:min(len(b), written+pieceBytes)])
		written += n
		w.bytes += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (w *answer) writePiece(piece []byte) (int, error) {
	if w.holding != nil {
		return w.holding.write(w.ResponseWriter, piece, w.pieceTimeout)
	}
	// An error means that there is no connection, as in a test.
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.pieceTimeout))
	return w.ResponseWriter.Write(piece)
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// body is the body of a request.
type body struct {
	io.ReadCloser // nil: the request has none
	ended         bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// isUnread says whether some of the body, or all, was not read.
func (b *body) isUnread() bool { return b.ReadCloser != nil && !b.ended }

// What is done for a client that is still sending its body when the answer is there. To close the
// connection at once would destroy the answer on its way: the client's system discards what it
// hasn't read when it learns that what it sends isn't wanted.
const (
	lingerBytes = 64 << 20
	lingerFor   = 5 * time.Second
	maxLingers  = 64
)

// linger sends the answer and throws away what else comes of the body, within bounds. The gate may
// close the connection meanwhile.
func (a *API) linger(w *answer, r *http.Request) {
	if !w.body.isUnread() {
		return
	}
	c := http.NewResponseController(w.ResponseWriter)
	who := party{address: gate.NetworkOf(a.clientOf(r))} // whoever it is, it may have no token
	if c.Flush() == nil && a.lingers.tryTake(who) {
		defer a.lingers.give(who)
		if conn := gate.Of(r.Context()); conn != nil {
			conn.Answered()
		}
		_ = c.SetReadDeadline(time.Now().Add(lingerFor))
		_, _ = io.CopyN(io.Discard, &w.body, lingerBytes)
	}
	// net/http reads on when it closes a body. It needn't.
	_ = c.SetReadDeadline(time.Now())
}
