package httpapi

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// appendLine appends a line of CSV as RFC 4180 has it. Unlike encoding/csv it leaves line ends
// within a text as they are: two ids that differ in nothing else must not become one.
func appendLine(to []byte, fields []string) []byte {
	for i, field := range fields {
		if i > 0 {
			to = append(to, ',')
		}
		if !strings.ContainsAny(field, "\",\r\n") && (field == "" || field[0] != ' ') {
			to = append(to, field...)
			continue
		}
		to = append(to, '"')
		for j := range len(field) {
			if field[j] == '"' {
				to = append(to, '"')
			}
			to = append(to, field[j])
		}
		to = append(to, '"')
	}
	return append(to, '\r', '\n')
}

// formulaStarts begin what a spreadsheet runs; the last four are their full-width forms.
const formulaStarts = "=+-@＝＋－＠"

// escapeFormula puts an apostrophe before a text that a spreadsheet could run as a formula, and
// before one that has such an apostrophe already, so that they stay apart. JSON has the text as it
// is.
func escapeFormula(text string) string {
	bare := strings.TrimLeft(text, "'")
	if bare == "" || !isFormula(bare) {
		return text
	}
	return "'" + text
}

// isFormula says whether a text begins like a formula, after blanks and what can't be seen:
// programs that read it may leave these out. One that begins with a tab or the end of a line could
// end up in a cell of its own.
func isFormula(text string) bool {
	if strings.IndexByte("\t\r\n", text[0]) >= 0 {
		return true
	}
	text = strings.TrimLeftFunc(text, func(c rune) bool { return unicode.IsSpace(c) || unicode.Is(unicode.C, c) })
	for _, c := range text {
		return strings.ContainsRune(formulaStarts, c)
	}
	return false
}

// csvForm is how a report is written as CSV.
type csvForm struct {
	bom bool // a byte order mark is before it, by which spreadsheets know UTF-8
	raw bool // texts are as they are, also those that a spreadsheet would run
}

// byteOrderMark is that of UTF-8.
const byteOrderMark = "\ufeff"

// text is what CSV has of a text of the books.
func (f csvForm) text(text string) string {
	if f.raw {
		return text
	}
	return escapeFormula(text)
}

// csvStream sends what is written in large pieces, so that each gets a new deadline.
type csvStream struct {
	w      http.ResponseWriter
	name   string // of the file
	buffer bytes.Buffer
	line   []byte
	zip    *gzip.Writer // nil if the client takes no gzip, or nothing was sent yet
	begun  bool
	err    error // of the client's connection
}

// write adds a line. The error is of the client's connection.
func (s *csvStream) write(fields []string) error {
	s.line = appendLine(s.line[:0], fields)
	s.buffer.Write(s.line)
	if s.buffer.Len() < pieceBytes {
		return nil
	}
	return s.send()
}

func (s *csvStream) send() error {
	if !s.begun {
		s.begin()
	}
	var to io.Writer = s.w
	if s.zip != nil {
		to = s.zip
	}
	_, s.err = to.Write(s.buffer.Bytes())
	s.buffer.Reset()
	return s.err
}

func (s *csvStream) begin() {
	s.begun = true
	h := s.w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8; header=present")
	h.Set("Content-Disposition", `attachment; filename="`+s.name+`"`)
	h.Add("Vary", "Accept-Encoding")
	if acceptsGzip(s.w) {
		h.Set("Content-Encoding", "gzip")
		s.zip = gzipWriters.Get().(*gzip.Writer)
		s.zip.Reset(s.w)
	}
}

// end sends what is left, and the end of it. The error is of the client's connection.
func (s *csvStream) end() error {
	if err := s.send(); err != nil || s.zip == nil {
		return err
	}
	s.err = s.zip.Close()
	return s.err
}

// release gives back what the stream was written with. What isn't at its end then never gets one.
func (s *csvStream) release() {
	if s.zip != nil {
		s.zip.Reset(io.Discard)
		gzipWriters.Put(s.zip)
		s.zip = nil
	}
}
