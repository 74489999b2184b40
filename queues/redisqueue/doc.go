// Package redisqueue is a queue in Redis, a stream a shard, that carries batches from the instances
// to the flusher, and so to Postgres. Package queuetest says what a queue must do.
//
// # What is in Redis
//
// What belongs to books lies under their id (see ForBooks): the prefix of their keys is
// "spendflush:<id>", which is left out below. Without ForBooks it is "spendflush" alone. All keys
// of a shard share the hash tag {prefix:shard}, so that they lie on one node of a Redis Cluster:
//
//	{spendflush:0}:queue        stream: an entry a batch, with fields p (producer), s (sequence) and b (the batch)
//	{spendflush:0}:index        stream: for each entry of the queue one of the same id, with fields n (bytes of its batch),
//	                            c (bytes of memory that it counts for, which is about a fifth more) and i (producer and
//	                            sequence)
//	{spendflush:0}:bytes        number: the sum of these c
//	{spendflush:0}:mark:<uuid>  text: how far this producer is known to be in Postgres, as spend.Mark writes it
//	{spendflush:0}:retained     stream: with Retain, an entry a batch that was acked, with the queue's fields and t (bytes
//	                            that it and those before it count for); its id says when it was acked
//	{spendflush:0}:changes      number: with a rewind window, how many changes the books have had, at least
//	{spendflush:0}:window       number: the longest rewind window that an instance has had within ten minutes, in milliseconds
//	{spendflush:0}:lastwindow   number: the same within a week
//	{spendflush:0}:ahead        text: up to which retained entry ids say a time that is still to come, and when that was seen
//
// Besides, {<prefix>:witness} shows, for ten seconds at a time, the last token of the database that
// uses the queue, so that a copy of it doesn't; and {spendflush:books:<hash>} notes which books the
// database of an address has.
//
// Whatever changes a queue is one Lua script, so that queue, index and bytes can't come apart. Only
// an eviction or a hand at the keys can do that; the next push notices it by the lengths and makes
// index and bytes anew.
//
// A user of Redis needs no more than this for queues and locks (CLIENT and the like are done
// without if refused):
//
//	~{spendflush:* +evalsha +eval +xadd +xrange +xdel +xlen +get +set +del +exists +incrby +decrby +pttl +pexpire +info
//
// and with Retain, or to call Requeue, Expire or RetainedStats, also
//
//	+xrevrange +xtrim +time +getrange
//
// # What an EntryID stands for
//
// The id of a stream's entry may come again for another batch: after a FLUSHALL, or when a replica
// is promoted whose clock is behind. So an EntryID has the producer and the sequence of the batch
// too, and Push and Ack compare them with what is there. The index, which is read anyway, spares
// reading the batch for it; where it says something else, or nothing, the entry itself decides. Of
// an entry that is no batch it is a hash of its size and its first KiB.
//
// # What was acked and is retained
//
// A database may be turned back to an earlier state: a restored backup, a failover to a standby
// that was behind. What was committed since and acked is then nowhere else. With Retain the script
// that takes an entry out of the queue puts its batch into a second stream, under an id that says
// when: Expire needs to know no more. Requeue moves all back to the end of the queue, and the
// claims drop what Postgres has.
//
// Retained entries have no index and no counter. Each has instead the sum of what it and all those
// before it count for, and they leave from the front only, so the first and the last one tell the
// bytes of all, and trimming leaves no account wrong. What is deleted by hand from the middle goes
// on to count until the entries before it have gone.
//
// A Redis out of memory refuses the copy, and then the entry is acked without it: what was acked is
// in Postgres, but as long as the queue is full no other batch gets there.
//
// # Clocks that are wrong
//
// The time in a retained entry's id is the later of two clocks, that of Redis and that of the
// instance which acked it. Expire compares it with the earlier of two, that of Redis and its
// caller's. So one clock alone, ahead or behind, makes nothing look older than it is. What was
// acked while a clock was ahead, and what follows it, as ids only grow, would stay until that time
// comes. Expire notes where such entries end, and drops them once by both clocks the age has passed
// since then.
//
// # What isn't a batch
//
// Whoever may write to Redis can add entries. One without a batch, or larger than MaxBatchBytes, is
// read as such, and the flusher sets it aside in quarantine: of a larger one its first KiB, because
// a client that reads an entry has to hold all of it. A stream gives no id after the largest
// possible one. If such an entry was added, pushes fail with ErrIDsExhausted until the queue is
// empty, and then begin anew. Instances write directly to Postgres meanwhile.
//
// # Why the bytes are counted and not asked for
//
// MEMORY USAGE would need no counter, but it samples: a queue whose first batches are small and
// whose later ones are large would be taken for small, and its bound would be none. To look at all
// entries instead of a sample costs time that grows with the queue, at each push, when it is
// longest. And some services don't have the command at all (Amazon's serverless one answers
// "unknown command"). The index costs some 80 bytes an entry. It pays for itself: it tells Ack what
// an entry is, and Stats how old the first one is, without copying it.
//
// # Why a mark has a key of its own
//
// A producer is one run of a process, so marks of those that are gone must go too. A key that
// expires does that by itself; a field of a hash can't expire in the versions of Redis that are to
// be supported. A mark is a hint that may be forgotten at any time, so no harm is done when one
// expires under a producer that has been idle for a day.
//
// # Heartbeats
//
// Instances write a record of themselves every second, for people to see them all from any one of
// them. All records are in one hash, {prefix:heartbeats}:records, and the times that they were
// written at, by the clock of Redis, in a sorted set beside it, so that one script each writes and
// lists, in one slot of a cluster. What isn't written again is forgotten, by whoever writes next or
// with both keys. A user of Redis needs for it
//
//	+evalsha +eval +time +hset +hget +hdel +zadd +zcard +zrange +zrangebyscore +zrevrangebyscore +zrem +pexpire
//
// and without these rights all works but the heartbeats.
package redisqueue
