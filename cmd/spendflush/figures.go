package main

import (
	"context"
	"time"
)

const (
	figuresCheck   = time.Minute     // how often it is looked whether figures are to be made
	figuresPause   = time.Second     // after those of one day
	figuresTimeout = 2 * time.Minute // of one day
)

// keepFigures has the figures made that reports are faster with. Of all instances one does it at a
// time. It works until ctx ends.
func (ps *parts) keepFigures(ctx context.Context) {
	for wait := figuresPause; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		dayCtx, cancel := context.WithTimeout(ctx, figuresTimeout)
		made, err := ps.reads.KeepFigures(dayCtx)
		cancel()
		if err != nil && ctx.Err() == nil {
			ps.log.Debug("figures can't be made; reports read rows meanwhile", "error", err)
		}
		wait = figuresCheck
		if made {
			wait = figuresPause
		}
	}
}
