// Package servers starts private Postgres, Redis and PgBouncer servers from the programs of this
// machine. `spendflush dev`, the demo and the tests run on them.
//
// Every server has a directory of its own. In it are its data, its log, a random password that
// nobody else can read, and a lock, so that no two servers use the same directory. Servers listen
// on 127.0.0.1 alone.
//
// A server is a child in a process group of its own: Ctrl-C on the terminal doesn't reach it, so
// its users can drain first. On Linux the kernel ends it when this process dies, however that
// happens; what still runs from an earlier process nevertheless is ended before the directory is
// used again.
package servers
