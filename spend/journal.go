package spend

import "errors"

// ErrJournalInUse is wrapped where a journal can't be opened because another process has it.
var ErrJournalInUse = errors.New("journal is in use by another process")

// Journal keeps sealed batches where they survive the death of this process and the loss of the
// queue together: on a disk. Batches stay in it until Postgres has them for good. Journals are safe
// for concurrent use. The suite in package journaltest says what an implementation must do.
type Journal interface {
	// Append adds batches, in this order, and returns once they are on stable storage. It blocks
	// for the disk. After an error none of them is in the journal as far as the caller knows:
	// appending them again does no harm. The batches aren't changed, and not kept after the call.
	Append(batches []*Batch) error

	// Truncate drops the batches of the producer in the shard up to this sequence: Postgres has
	// them for good. What is no longer needed is deleted sooner or later. It may be called for
	// producers and batches that the journal never had.
	Truncate(shard int, producer ProducerID, mark uint64) error

	// Recovered returns the batches that earlier processes left when the journal was opened, and
	// that weren't truncated since, each producer's in the order in which they were appended. They
	// stay until they are truncated.
	Recovered() ([]*Batch, error)
}
