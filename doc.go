// Package spendflush makes the write path for spend safe at scale: many instances of a service each
// book what a request cost on a key, a user, a team and so on, and every accepted update is counted
// once in Postgres, exactly, whatever crashes on the way.
//
// # Use
//
// A [Pipeline] is one instance. It needs a Store (package pgstore: Postgres), and normally a Queue
// and a Locker on Redis (packages redisqueue and redislock), and a second Locker on Postgres
// (package pglock) for when Redis is away:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	p, err := spendflush.New(spendflush.Config{Store: store, Queue: queue, Locker: locker, DirectLocker: direct})
//	running := make(chan error, 1)
//	go func() { running <- p.Run(ctx) }()
//	err = p.Record(&spendflush.Update{Cost: spendflush.Cost{Spend: cost}, Series: spendflush.Series{APIKey: "key-1", TeamID: "team-1"}})
//	err = <-running // once ctx has ended and all is drained; or what is left, as a *NotDrainedError
//
// The store, the queue and the lockers take the pool and the client that a service has already: see
// the example OwnConnections. Package spend has what these are: the interfaces, and what goes
// through them.
//
// Whatever calls Record must end before Run returns, or be ready for ErrClosed: a server is shut
// down when ctx ends, and then Run is waited for. [Pipeline.Shutdown] drains at any other time.
//
// Record does no I/O: it adds to a sum in memory. To know that an update is safe, record it with
// [Pipeline.RecordAll] and wait for a [Stage] with [Pipeline.Wait].
//
// # Exact from the caller on
//
// Whoever gets no answer can't know whether it counted, and records again. What is to count once
// all the same gets a name: [Update.ID], or the key of [Pipeline.RecordOnce] for all updates of a
// call. The transaction that adds the sums decides, so it counts once whichever instance it is told
// to, for [Config.IDWindow] from its commit on. [Pipeline.Counts] says what was new,
// [Pipeline.FindID] what became of an id. An update with an ID costs a row of Postgres, and 256
// bytes here until it is committed.
//
// # How it works
//
// Updates are summed in memory, one entry a combination of ids and dimensions. At every
// Config.SealInterval the sums are sealed into a batch, whose bytes and identity (producer, shard,
// sequence, digest) never change again. Batches are pushed to the queue in order. One instance at a
// time holds the lock, reads the queue, merges what it finds, and commits it as one transaction.
// That transaction also moves, for each producer, the mark of what was applied: the claim. If the
// mark isn't where the claim says, everything rolls back. So a batch that arrives twice counts
// once, and a holder that only believes it holds the lock does no harm.
//
// A batch stays in memory until Postgres is known to have it. If the queue loses it, it is pushed
// again; if the queue is away, it is written directly, by the same claim.
//
// # What survives what
//
//	Accepted   anything but the death of this process; Shutdown drains it
//	Queued     the death of this process; and, while the process lives, the loss of everything in the queue
//	           with a Journal: the death of this process and the loss of the queue, together
//	Committed  everything that Postgres survives
//	           with a RewindWindow: a Postgres restored to a moment within the window, too
package spendflush
