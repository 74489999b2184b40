package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/spendflush/spendflush/spend"
)

const codecAbout = `A batch of all keys' rows, encoded from sorted rows and decoded into them again, checksum included.`

func codecSteps(r *run) int { return 2 * r.Rounds }

func measureCodec(ctx context.Context, r *run) error {
	flushes, _, err := captureFlushes(ctx, r.sized(5000, 500))
	if err != nil {
		return err
	}
	f := flushes[0]
	rows := len(f.Totals) + len(f.Rollups)
	header := spend.Header{Producer: spend.NewProducerID(time.Now()), Sequence: 1, SealedAt: time.Now()}
	encode := func() *spend.Batch { return spend.NewBatch(header, f.Totals, f.Rollups) }
	bytes := encode().Bytes()
	got, err := r.compare(ctx, r.Rounds, []variant{
		{"encode", func(context.Context) (map[string]float64, error) {
			return r.perRow(rows, func() error { encode(); return nil })
		}},
		{"decode", func(context.Context) (map[string]float64, error) {
			return r.perRow(rows, func() error {
				b, err := spend.ParseBatch(bytes)
				if err == nil {
					_, err = b.Rows()
				}
				return err
			})
		}},
	})
	if err != nil {
		return err
	}
	t := Table{Part: "codec", Title: "Batches", About: codecAbout, Columns: []string{"ns a row", "bytes a row"}}
	size := []float64{float64(len(bytes)) / float64(rows)}
	for _, name := range []string{"encode", "decode"} {
		t.row(fmt.Sprintf("%s %s rows", name, number(float64(rows))), got[name]["ns"], size)
	}
	r.report.Tables = append(r.report.Tables, t)
	return nil
}

// perRow calls do, which works on so many rows, for as long as a measurement takes.
func (r *run) perRow(rows int, do func() error) (map[string]float64, error) {
	n := 0
	begun := time.Now()
	for ; n == 0 || time.Since(begun) < r.Duration; n++ {
		if err := do(); err != nil {
			return nil, err
		}
	}
	return map[string]float64{"ns": float64(time.Since(begun).Nanoseconds()) / float64(n) / float64(rows)}, nil
}
