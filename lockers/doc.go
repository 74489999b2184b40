// Package lockers has locks for spendflush: in Redis, in Postgres, and in memory. The lock decides who flushes; it only
// spares work. That a batch counts once is decided by the claim in the transaction, never by a lock.
//
// # States of a lease
//
//	          Acquire                     trust ends, or another holder is seen
//	(none) ───────────────► held ────────────────────────────────────────────────► lost
//	   ▲                     │ ▲ │                                                   │
//	   │     ErrHeld         │ └─┘ renewed                                           │
//	   └── (somebody else)   │ Release                                               │ Release
//	                         ▼                                                       ▼
//	                      released                                               released
//
// # Trust window of the lock in Redis
//
// The key lives for TTL from when Redis executed the last SET or PEXPIRE. When that was, the holder can't know; it knows
// when it began the call, which was earlier. So it trusts its lease until the beginning of the call that last renewed
// it, plus TTL, less a margin for clocks that run at different speeds. A reply that comes late doesn't extend trust. It
// renews every third of the TTL; a failed renewal is tried again until trust ends. Then Lost is closed, before anybody
// else can have the lock.
//
// A holder that is stopped (SIGSTOP, a frozen machine) can't close anything while it is; it may wake up after another
// one has taken over, and go on for a moment. That is harmless: its claims don't fit any more.
//
// # Failures
//
// A lost reply to Acquire leaves a key that nobody knows of; it expires after the TTL. A lost reply to Release likewise.
// A Redis that is emptied lets a second holder in while the first one finds out at its next renewal.
//
// # The lock in Postgres
//
// An advisory lock that a transaction holds open on a connection of its own, so it works behind PgBouncer in transaction
// mode, and nothing stays behind when the process dies: Postgres ends the transaction with the connection. What it
// costs is that connection. It is used while there is no Redis.
package lockers
