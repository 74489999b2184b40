package memqueue_test

import (
	"testing"

	"github.com/spendflush/spendflush/internal/lab/testserver"
	"github.com/spendflush/spendflush/queues/memqueue"
	"github.com/spendflush/spendflush/queues/queuetest"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func TestMemoryIsAQueue(t *testing.T) {
	queuetest.Run(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
		q := memqueue.New(memqueue.Options{MaxBytes: maxBytes})
		return queuetest.Opened{Queue: q, Lose: q.Clear}
	})
}

func TestMemoryIsAKeeper(t *testing.T) {
	queuetest.RunKeeper(t, func(t *testing.T, maxBytes int64) queuetest.Opened {
		q := memqueue.New(memqueue.Options{MaxBytes: maxBytes, Retain: true})
		return queuetest.Opened{Queue: q, Lose: q.Clear}
	})
}
