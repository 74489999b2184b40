// Package diskjournal is a journal on a disk, in which batches outlast the queue and the process.
// Package journaltest says what a journal must do.
//
// # The directory
//
// The directory of a journal belongs to one process at a time and has:
//
//	lock                        locked (flock) by who uses the journal; empty; not to be deleted while it is used
//	0000000042.batches          batches, one after the other, nothing else; they frame themselves
//	0000000007.batches.damaged  a file in which something was unreadable, kept for people, never read again
//
// Files with other names are left alone. A file gets batches until it has 16 MiB; then the next
// number is begun. A process writes only to files that it made itself. A file is deleted when all
// batches in it are truncated, wherever it is in the order, and the one in use is made empty then,
// so that a journal of an instance that keeps up is small. That something was truncated is written
// nowhere: after a crash more is left than is needed, never less, and who pushes what is left
// relies on the marks in Postgres, as with every repetition.
//
// What happens on each fault:
//
//	the process dies             what was appended is left to the next process; the lock ends with the process
//	the machine dies             likewise: Append syncs the file, and the directory when it made the file
//	either, amid an Append       the beginning of a batch at the end of a file is ignored and reported (Journal.Damage)
//	bytes changed on the disk    the next batch with a right checksum is looked for, and all such are left; what is
//	                             between them is reported, and the file kept as .damaged once the rest is truncated, and
//	                             not earlier, so that another crash before then loses nothing either
//	the last batch has changed   likewise, if it is as long as it says; if not it is taken for one that wasn't finished
//	the disk is full             Append returns an error; what it wrote is taken back; it works again when there is room
//	what was written can't be    the file gets no more batches, and the next Append begins another
//	  taken back
//	an fsync fails               likewise, since a later fsync may succeed without having written what that one didn't;
//	                             all batches of the calls that shared it must be appended again
//	a file can't be deleted      Truncate returns an error, and each later Truncate tries again
//	a file can't be read         Open and Left return an error that names it
//	a second process             Open returns spend.ErrJournalInUse
//	no right in the directory    Open returns an error that names the path, what is needed, and the user
//	others may write to it       likewise: a directory or file that another account could have made or changed is refused,
//	                             and so is a symbolic link at its place
//
// Files are read in pieces of 1 MiB. A batch takes memory once its checksum was found to be right.
//
// File systems that don't keep what fsync was told (some network and container ones) don't keep a
// journal either. It needs a system with flock; on others Open returns errors.ErrUnsupported.
package diskjournal
