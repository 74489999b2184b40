package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/spendflush/spendflush/spend"
)

// maxFaults is how many faults one answer names.
const maxFaults = 20

// fault is one thing that is wrong with a body of updates.
type fault struct {
	Index  int    `json:"index"`           // place of the update in the request, from 0
	Field  string `json:"field,omitempty"` // JSON name of the field; empty if it is about the update as a whole
	Detail string `json:"detail"`
}

// errTooMany is returned by decoder.decode for more updates than are allowed.
var errTooMany = errors.New("too many updates")

// format is how a body carries updates.
type format uint8

const (
	formatJSON   format = iota // one update, or an array of updates
	formatNDJSON               // one update a line; lines of nothing but blanks are passed over
)

// decoder makes updates of JSON. One decoder serves one body after the other and keeps what it has
// allocated. It is not safe for concurrent use.
type decoder struct {
	maxUpdates int

	text string // a copy of the body; the texts of updates are parts of it
	base int    // where in the body json began to read
	line int    // the line of an NDJSON body, from 1; 0 in other bodies
	src  bytes.Buffer
	json *jsontext.Decoder
	word []byte // a text with escapes, unescaped

	updates []spend.Update
	bad     []bool  // which of updates have a fault
	faults  []fault // in the order of the body; at most maxFaults
	broken  bool    // a fault is about the grammar of JSON
}

// decode reads the updates in body into d.updates, where they stay until reset; body may change
// after the call. What is wrong is gathered in d.faults, and reading goes on behind a bad update as
// long as the grammar allows. Bounds are the root's to check. The only error is errTooMany.
//
// Names are matched with their case, and a name given twice is refused here: every name that is
// taken has a bit, which costs less than jsontext's own check. jsontext checks the grammar, UTF-8
// and the depth.
func (d *decoder) decode(body []byte, f format) error {
	d.text = string(body)
	if f == formatNDJSON {
		return d.lines(body)
	}
	d.start(0, body)
	var err error
	if d.json.PeekKind() == jsontext.KindBeginArray {
		err = d.array()
	} else {
		err = d.element()
	}
	if err == nil {
		err = d.end("something follows the end of the JSON; to send many updates, use an array or application/x-ndjson")
	}
	return asTooMany(err)
}

// errStop ends the reading of a JSON text behind a fault that can't be passed, or behind too many.
var errStop = errors.New("stop")

func asTooMany(err error) error {
	if err == errTooMany {
		return err
	}
	return nil
}

// reset forgets the updates and their texts.
func (d *decoder) reset() {
	for i := range d.updates {
		tags := d.updates[i].Tags
		clear(tags)
		d.updates[i] = spend.Update{Series: spend.Series{Tags: tags[:0]}}
	}
	clear(d.faults)
	d.updates, d.bad, d.faults = d.updates[:0], d.bad[:0], d.faults[:0]
	d.text, d.line, d.broken = "", 0, false
}

// start lets json read part, which begins at base in the body.
func (d *decoder) start(base int, part []byte) {
	d.base = base
	d.src = *bytes.NewBuffer(part)
	if d.json == nil {
		d.json = jsontext.NewDecoder(&d.src, jsontext.AllowDuplicateNames(true))
	} else {
		d.json.Reset(&d.src, jsontext.AllowDuplicateNames(true))
	}
}

// lines reads one update a line. A line that can't be read doesn't keep the others from being
// checked.
func (d *decoder) lines(body []byte) error {
	for at := 0; at < len(body); {
		line, next := body[at:], len(body)
		if n := bytes.IndexByte(line, '\n'); n >= 0 {
			line, next = line[:n], at+n+1
		}
		d.line++
		if len(bytes.TrimLeft(line, " \t\r")) > 0 {
			d.start(at, line)
			err := d.element()
			if err == nil {
				err = d.end("something follows the update on its line")
			}
			if err == errTooMany || len(d.faults) == maxFaults {
				return asTooMany(err)
			}
		}
		at = next
	}
	return nil
}

func (d *decoder) array() error {
	if _, err := d.json.ReadToken(); err != nil {
		return d.refuseSyntax(len(d.updates), err)
	}
	for {
		switch d.json.PeekKind() {
		case jsontext.KindInvalid:
			_, err := d.json.ReadToken()
			return d.refuseSyntax(len(d.updates), err)
		case jsontext.KindEndArray:
			if _, err := d.json.ReadToken(); err != nil {
				return d.refuseSyntax(len(d.updates), err)
			}
			return nil
		}
		if err := d.element(); err != nil {
			return err
		}
	}
}

// end makes sure that nothing follows.
func (d *decoder) end(complaint string) error {
	kind := d.json.PeekKind()
	if _, err := d.json.ReadToken(); err == io.EOF {
		return nil
	} else if kind == jsontext.KindInvalid {
		return d.refuseSyntax(max(0, len(d.updates)-1), err)
	}
	d.broken = true
	d.refuse(max(0, len(d.updates)-1), "", "%s", complaint)
	return errStop
}

// element reads one update.
func (d *decoder) element() error {
	index := len(d.updates)
	kind := d.json.PeekKind()
	if kind == jsontext.KindInvalid {
		_, err := d.json.ReadToken()
		if err == io.EOF {
			return errStop // there is nothing but blanks: the caller sees that there are no updates
		}
		return d.refuseSyntax(index, err)
	}
	if index == d.maxUpdates {
		return errTooMany
	}
	u := d.next()
	if kind != jsontext.KindBeginObject {
		return d.refuseValue(index, "", "want a JSON object with an update, not "+kindName(kind))
	}
	return d.object(index, u)
}

// next returns a zero update at the end of d.updates, with room for tags where it had some before.
func (d *decoder) next() *spend.Update {
	n := len(d.updates)
	if n < cap(d.updates) {
		d.updates = d.updates[:n+1] // reset has cleared it
	} else {
		d.updates = append(d.updates, spend.Update{})
	}
	d.bad = append(d.bad, false)
	return &d.updates[n]
}

func (d *decoder) object(index int, u *spend.Update) error {
	if _, err := d.json.ReadToken(); err != nil {
		return d.refuseSyntax(index, err)
	}
	var seen uint32
	for d.json.PeekKind() != jsontext.KindEndObject {
		name, err := d.json.ReadValue()
		if err != nil {
			return d.refuseSyntax(index, err)
		}
		f := d.fieldOf(name)
		switch {
		case f == noField:
			err = d.refuseValue(index, d.nameOf(name), "unknown field; allowed are "+allFieldNames)
		case seen&(1<<f) != 0:
			err = d.refuseValue(index, fieldNames[f], "is given twice")
		default:
			seen |= 1 << f
			err = d.value(index, u, f)
		}
		if err != nil {
			return err
		}
	}
	if _, err := d.json.ReadToken(); err != nil {
		return d.refuseSyntax(index, err)
	}
	if seen&(1<<fieldSpend) == 0 {
		return d.refuse(index, fieldNames[fieldSpend], "is missing")
	}
	return nil
}

// refuse notes a fault. It returns errStop when there are enough of them.
func (d *decoder) refuse(index int, field, format string, args ...any) error {
	if index < len(d.bad) {
		d.bad[index] = true
	}
	if len(d.faults) < maxFaults {
		d.faults = append(d.faults, fault{Index: index, Field: field, Detail: fmt.Sprintf(format, args...)})
	}
	if len(d.faults) >= maxFaults {
		return errStop
	}
	return nil
}

// refuseValue notes a fault and passes over the value that comes next.
func (d *decoder) refuseValue(index int, field, detail string) error {
	if err := d.json.SkipValue(); err != nil {
		return d.refuseSyntax(index, err)
	}
	return d.refuse(index, field, "%s", detail)
}

// refuseSyntax notes a fault in the grammar, behind which nothing can be read.
func (d *decoder) refuseSyntax(index int, err error) error {
	d.broken = true
	why := err.Error()
	offset := len(d.text)
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset = d.base + int(syntax.ByteOffset)
		why = syntax.Err.Error()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		why = "it ends too early"
	}
	where := ""
	if d.line > 0 {
		where = fmt.Sprintf("line %d, ", d.line)
	}
	d.refuse(index, "", "not valid JSON (%sbyte %d): %s", where, offset, why)
	return errStop
}
