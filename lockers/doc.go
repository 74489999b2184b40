// Package lockers says what the locks are that keep instances from doing each other's work. There
// are three kinds: a key in Redis (package redislock), which is the normal one; an advisory lock in
// Postgres (package pglock), for when Redis is away; and one in the memory of the process (package
// memlock). Package lockertest says what all must do. docs/locks.md compares the first two by
// numbers.
//
// # What the lock is for, and what not
//
// One instance at a time flushes a shard, so that the others don't read the same batches and fight
// over the same rows. The lock is not what makes the books exact: the claim is, which is part of
// the transaction that writes. No lock with a timeout could be. A process can be stopped after it
// has looked at its lock and before it writes, for longer than any timeout, and then write. So a
// lease that is wrong costs a rolled back transaction, and nothing else. All that follows only
// makes wrong leases rare and hand-overs quick.
//
// # The life of a lease
//
//	Acquire ──► refused: held by another, *spend.HeldError
//	   │
//	   ▼
//	held, trusted ──┬─ Release ──────────────────────────────► ended, Lost is closed
//	   │   ▲        ├─ a renewal finds it gone, or another's ──►
//	   ▼   │ TTL/3  ├─ the connection ends (Postgres) ─────────►
//	 renewal        └─ no renewal succeeds while it is trusted ►
//
// A lease ends once and for all. What comes after is another Acquire, with another token.
//
// # Trust
//
// The server lets the lock go one TTL after it last heard of its holder. The holder doesn't know
// when that was, but knows when it began to send: so it trusts the lease until
//
//	start of the last successful call + TTL - margin (a tenth of the TTL)
//
// on the monotonic clock. The call's own duration is thus never added to the trust, however slow it
// was; a call that succeeds later than that makes no lease at all. The margin is for clocks that
// run at different speeds, and for what the holder does between looking at Lost and the next thing
// that matters.
//
// A timer ends the trust, not the call that renews: that one may hang. While a process is stopped
// (SIGSTOP, a debugger) the clock goes on, so the timer fires as soon as it wakes. While a machine
// is suspended, it may not. The claim is for that.
//
// # Renewal
//
// Every third of the TTL one goroutine of the lease renews it; Release waits for it. A renewal that
// fails without telling that the lock is lost is soon tried again, as often as fits into the time
// that is left.
//
// # In Redis
//
// The key holds the owner and a random token, made for each Acquire, and expires. The lock
// "flush/3" is under {<prefix>:3}:lock:flush, the hash tag of the shard's queue: in a Redis Cluster
// a shard is on one node with its lock. Other names are under {<prefix>:lock:<name>}. Whoever has
// the lock can thus be read by anybody, with GET. Taking, renewing and releasing compare the whole
// value and act in one script: a late holder can't renew or delete its successor's lock. A reply
// that is lost leaves open whether the lock was won; the locker then uses the same token in its
// next Acquire of that name, which finds that the lock is its own.
//
// The key may vanish: FLUSHALL, a restart without its data, a fail-over to a replica that hadn't
// heard of it. Then two instances may hold leases until the first one's next renewal.
//
// # In Postgres
//
// The lock is pg_try_advisory_xact_lock in a transaction that stays open, on a connection of its
// own, until Release. Not a session's lock: a pooler in transaction mode would leave that behind in
// a connection that another client gets. For the same reason there are no prepared statements, and
// all settings are the transaction's own.
//
// When the holder's process dies, its connection ends and the lock is free at once. When the holder
// falls silent, it is idle_in_transaction_session_timeout that frees it: the transaction sets it to
// the TTL, and each renewal is a query that starts it anew. Between renewals the lease listens to
// the connection, so that it ends as soon as the server ends it.
//
// The number of the lock is a hash of its name, mixed with a random number in spendflush.lock_salt:
// any role may take any advisory lock, but only one with rights on the tables knows beforehand
// which ones are used here.
//
// A lease takes a connection for as long as it lasts, and what is done under it another one. So the
// connections of locks are a pool of their own, and WithMaxLeases bounds them: a relay that gets
// none is told so at once, as if the lock were held, and tries again soon, while those that have
// one finish.
//
// The open transaction has no snapshot and no transaction id. It doesn't hold back VACUUM.
package lockers
