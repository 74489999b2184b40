// Package load makes the traffic that benchmarks and demonstrations use, and books it in the way
// that services do without spendflush.
//
// A Workload is a sequence of updates by number, so any number of goroutines can share it, and what
// it adds up to is known exactly. Direct writes it with row-by-row statements from several
// connections, and counts the deadlocks and what is lost by them. Tables are the rows that such
// statements add to.
package load
