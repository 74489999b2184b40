package demo

import (
	"bytes"
	"encoding/json"

	"github.com/spendflush/spendflush/spend"
)

// body writes the updates of a request, one a line.
func body(updates []spend.Update) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for i := range updates {
		if err := e.Encode(&updates[i]); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
