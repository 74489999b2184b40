package queues

import "time"

// SetClock gives the queue another clock than this machine's.
func (q *Redis) SetClock(now func() time.Time) { q.now = now }
