package httpapi

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/spendflush/spendflush/spend"
)

// field is a field of an update in JSON: one of those that are named here, then the texts of its
// series, then its numbers of tokens, each in the order that package spend has them in.
type field uint8

const (
	fieldSpend field = iota
	fieldTime
	fieldStatus
	fieldTags
	fieldID
	firstText
)

var (
	fieldNames    = slices.Concat([]string{"spend", "time", "status", "tags", "id"}, spend.TextNames(), spend.TokenNames())
	allFieldNames = strings.Join(fieldNames, ", ")

	firstTokens = firstText + field(len(spend.TextNames()))
	noField     = field(len(fieldNames))

	quotedFields = func() map[string]field {
		byName := make(map[string]field, len(fieldNames))
		for i, name := range fieldNames {
			byName[strconv.Quote(name)] = field(i)
		}
		return byName
	}()
)

// fieldOf returns the field that a quoted name stands for.
func (d *decoder) fieldOf(quoted []byte) field {
	if f, ok := quotedFields[string(quoted)]; ok {
		return f
	}
	// A name may be written with escapes, as "\u0073pend".
	if bytes.IndexByte(quoted, '\\') >= 0 {
		if plain, err := jsontext.AppendQuote(nil, d.nameOf(quoted)); err == nil {
			if f, ok := quotedFields[string(plain)]; ok {
				return f
			}
		}
	}
	return noField
}

// nameOf returns the text of a quoted name, cut where it would make an answer long.
func (d *decoder) nameOf(quoted []byte) string {
	const most = 64
	d.word, _ = jsontext.AppendUnquote(d.word[:0], quoted)
	if len(d.word) > most {
		return strings.ToValidUTF8(string(d.word[:most]), "") + "…"
	}
	return string(d.word)
}

// value reads the value of the field. null is as good as leaving the field out; only spend may not
// be left out.
func (d *decoder) value(index int, u *spend.Update, f field) error {
	kind := d.json.PeekKind()
	if kind == jsontext.KindNull {
		if f == fieldSpend {
			return d.refuseValue(index, fieldNames[f], "is null; an amount is needed")
		}
		if _, err := d.json.ReadToken(); err != nil { // "nul"
			return d.refuseSyntax(index, err)
		}
		return nil
	}
	switch {
	case f == fieldSpend:
		return d.spend(index, u, kind)
	case f == fieldTags:
		return d.tags(index, u, kind)
	case f >= firstTokens:
		return d.count(index, u.Tokens(int(f-firstTokens)), f, kind)
	}
	if kind != jsontext.KindString {
		return d.refuseValue(index, fieldNames[f], "want a string, not "+kindName(kind))
	}
	quoted, err := d.json.ReadValue()
	if err != nil {
		return d.refuseSyntax(index, err)
	}
	switch f {
	case fieldTime:
		return d.time(index, u, quoted)
	case fieldStatus:
		return d.status(index, u, quoted)
	case fieldID:
		if u.ID = d.string(quoted); u.ID == "" {
			return d.refuse(index, fieldNames[f], "is empty; leave it out, or give 1 to %d bytes", spend.MaxIDBytes)
		}
		return nil
	}
	*u.Text(int(f - firstText)) = d.string(quoted)
	return nil
}

// string returns the text of the quoted string that json has just read: a part of d.text unless it
// has escapes.
func (d *decoder) string(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		end := d.base + int(d.json.InputOffset()) - 1
		return d.text[end-(len(quoted)-2) : end]
	}
	return string(d.unquote(quoted))
}

// unquote returns the text of a quoted string that json has accepted. It is valid until the next
// call.
func (d *decoder) unquote(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	d.word, _ = jsontext.AppendUnquote(d.word[:0], quoted)
	return d.word
}

func (d *decoder) spend(index int, u *spend.Update, kind jsontext.Kind) error {
	if kind != jsontext.KindNumber && kind != jsontext.KindString {
		return d.refuseValue(index, fieldNames[fieldSpend], "want a number, or a string that holds one, not "+kindName(kind))
	}
	text, err := d.json.ReadValue()
	if err != nil {
		return d.refuseSyntax(index, err)
	}
	if kind == jsontext.KindString {
		text = d.unquote(text)
	}
	if u.Spend, err = spend.ParseAmount([]byte(text)); err != nil {
		return d.refuse(index, fieldNames[fieldSpend], "%v", err)
	}
	return nil
}

// maxCountDigits is how many digits a count may have to be read at all; the root bounds its value.
const maxCountDigits = 18

// count reads a number of tokens: digits and nothing else, because 1e3 and 1.0 come out of floats.
func (d *decoder) count(index int, to *int64, f field, kind jsontext.Kind) error {
	if kind != jsontext.KindNumber {
		return d.refuseValue(index, fieldNames[f], "want a whole number, not "+kindName(kind))
	}
	digits, err := d.json.ReadValue()
	if err != nil {
		return d.refuseSyntax(index, err)
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' || len(digits) > maxCountDigits {
			return d.refuse(index, fieldNames[f], "%.40s: want a whole number in plain digits, 0 to %d", digits, spend.MaxTokens)
		}
		n = n*10 + int64(c-'0')
	}
	*to = n
	return nil
}

func (d *decoder) tags(index int, u *spend.Update, kind jsontext.Kind) error {
	name := fieldNames[fieldTags]
	if kind != jsontext.KindBeginArray {
		return d.refuseValue(index, name, "want an array of strings, not "+kindName(kind))
	}
	if _, err := d.json.ReadToken(); err != nil {
		return d.refuseSyntax(index, err)
	}
	stranger := jsontext.KindInvalid // the first element that isn't a string
	for {
		kind := d.json.PeekKind()
		if kind == jsontext.KindEndArray {
			break
		}
		if kind != jsontext.KindString && stranger == jsontext.KindInvalid {
			stranger = kind
		}
		quoted, err := d.json.ReadValue()
		if err != nil {
			return d.refuseSyntax(index, err)
		}
		// One above the bound is kept, so that the root refuses the update; the rest would only
		// take memory.
		if kind == jsontext.KindString && len(u.Tags) <= spend.MaxTags {
			u.Tags = append(u.Tags, d.string(quoted))
		}
	}
	if _, err := d.json.ReadToken(); err != nil {
		return d.refuseSyntax(index, err)
	}
	if stranger != jsontext.KindInvalid {
		return d.refuse(index, name, "want an array of strings, not of %s", kindName(stranger))
	}
	return nil
}

func (d *decoder) time(index int, u *spend.Update, quoted []byte) error {
	text := d.unquote(quoted)
	plain, leap := plainRFC3339(text)
	switch {
	case !shapedAsRFC3339(plain) || u.Time.UnmarshalText(plain) != nil || leap && !endsMonth(u.Time):
		return d.refuse(index, fieldNames[fieldTime], "%.40q: want RFC 3339 such as 2026-01-31T12:00:00Z", text)
	case u.Time.IsZero(): // which would mean "now"
		return d.refuse(index, fieldNames[fieldTime], "%s is out of range", u.Time.Format(time.RFC3339))
	}
	return nil
}

// plainRFC3339 writes what RFC 3339 allows and package time doesn't take in the way that it takes:
// the letters t and z, and the second 60. leap says that there was such a second. It becomes the
// one before, which is of the same hour.
func plainRFC3339(text []byte) (plain []byte, leap bool) {
	const second = len("2026-12-31T23:59:")
	last := len(text) - 1
	if last <= second+1 {
		return text, false
	}
	leap = text[second] == '6' && text[second+1] == '0'
	if !leap && text[10] != 't' && text[last] != 'z' {
		return text, false
	}
	plain = bytes.Clone(text) // an error shows what was sent
	if leap {
		plain[second], plain[second+1] = '5', '9'
	}
	if plain[10] == 't' {
		plain[10] = 'T'
	}
	if plain[last] == 'z' {
		plain[last] = 'Z'
	}
	return plain, leap
}

// endsMonth says whether the time is in the last second of a month of UTC, the only one that a leap
// second may follow.
func endsMonth(t time.Time) bool {
	next := t.UTC().Truncate(time.Second).Add(time.Second)
	return next.Day() == 1 && next.Hour() == 0 && next.Minute() == 0 && next.Second() == 0
}

// shapedAsRFC3339 refuses what package time takes though RFC 3339 doesn't allow it: an hour of one
// digit, a decimal comma, an offset of a day or more.
func shapedAsRFC3339(text []byte) bool {
	const second = len("2026-01-31T12:00:00")
	if len(text) <= second || text[10] != 'T' || text[13] != ':' || text[second] == ',' {
		return false
	}
	if text[len(text)-1] == 'Z' {
		return true
	}
	offset := string(text[len(text)-len("00:00"):])
	return offset[:2] < "24" && offset[3:] < "60"
}

func (d *decoder) status(index int, u *spend.Update, quoted []byte) error {
	text := d.unquote(quoted)
	if u.Status.UnmarshalText(text) != nil {
		return d.refuse(index, fieldNames[fieldStatus], "%.40q: allowed are success and failure", text)
	}
	return nil
}

// kindName says what a value is, for the reader of an error.
func kindName(kind jsontext.Kind) string {
	switch kind {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "a boolean"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginArray:
		return "an array"
	default:
		return "an object"
	}
}
