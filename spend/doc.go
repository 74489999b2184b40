// Package spend has what is counted, and the contract between the engine and what it runs on.
//
// The domain: an [Update] is what one request cost, in an exact [Amount]; it counts on a [Series],
// and on each [Entity] that the series names.
//
// The contract: the engine (package spendflush) seals sums into a [Batch], has a [Queue] carry it
// and a [Journal] keep it, and commits a [Flush] to a [Store] while it holds a [Lease] of a
// [Locker]. A [Mark] is how far a producer's batches are in the books. Packages queuetest,
// storetest, lockertest and journaltest say all that an implementation must do.
//
// The package imports nothing of the module. Adapters import it, and not the engine. Those who only
// record what they spend need package spendflush alone, which has the domain under the same names.
package spend
