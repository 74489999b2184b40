package quarantine

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spendflush/spendflush/spend"
)

// maxIDs is how many ids are shown of one entry: a flush may set aside thousands.
const maxIDs = 100

// idJSON is an id of a caller that an entry has updates of. The books keep no text of an id:
// whoever knows it is told its identity by GET /v1/ids/{id}.
type idJSON struct {
	Identity string        `json:"identity"` // hexadecimal
	Kind     string        `json:"kind"`     // update or request
	Updates  int64         `json:"updates"`
	Spend    spend.Amount  `json:"spend"`
	Hour     time.Time     `json:"hour,omitzero"` // of an update
	Series   *spend.Series `json:"series,omitempty"`
}

// ids returns the first ids of the batch, and how many it has.
func (v *View) ids() (list []idJSON, all int) {
	if v.rows == nil {
		return nil, 0
	}
	pieces := v.rows.Pieces
	for i, piece := range pieces.All() {
		if i == maxIDs {
			break
		}
		list = append(list, idOf(pieces, piece))
	}
	return list, pieces.Len()
}

// idOf makes one of a piece, of which it keeps nothing.
func idOf(pieces spend.Pieces, piece *spend.Piece) idJSON {
	id := idJSON{Identity: piece.ID.String(), Kind: spend.RequestFact.String(), Updates: piece.Updates()}
	for i := range piece.Parts {
		id.Spend = id.Spend.Add(piece.Parts[i].Counters.Spend)
	}
	if piece.Single {
		row := pieces.Row(piece.Parts[0].Row)
		series := row.Series()
		id.Kind, id.Hour, id.Series = spend.UpdateFact.String(), row.Hour.Time(), &series
	}
	return id
}

// printIDs writes the ids for people, nothing if there are none.
func (v *View) printIDs(to io.Writer) error {
	list, all := v.ids()
	if all == 0 {
		return nil
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nIDENTITY OF THE ID\tNAMES\tUPDATES\tDOLLARS\tWHAT")
	for i := range list {
		id, what := &list[i], ""
		if id.Series != nil {
			what = hourText(id.Hour) + " " + describeSeries(id.Series)
		}
		fmt.Fprintf(w, "%s\tone %s\t%d\t%s\t%s\n", id.Identity, id.Kind, id.Updates, id.Spend, what)
	}
	if err := w.Flush(); err != nil || all == len(list) {
		return err
	}
	_, err := fmt.Fprintf(to, "and %d more\n", all-len(list))
	return err
}
