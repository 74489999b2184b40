package redisqueue

import "time"

// SetClock gives the queue another clock than this machine's.
func (q *Queue) SetClock(now func() time.Time) { q.now = now }
