// Package gate decides which connections of an HTTP server stay open, so that no client keeps the
// others out.
//
// There are three bounds: on all connections, on those of one address that isn't a trusted proxy,
// and on the time that the header of a request takes from its first byte. A connection that has
// sent no byte yet may stay as long as an idle one, because clients open connections ahead.
//
// At a bound the gate closes the connection that has been without a request for longest: one of the
// same address, or one of the address that has the most of them. A request counts once its caller
// is known (Conn.Work): anybody can send one that doesn't end, or take nothing of the answer. A
// connection whose request counts is never closed. If all are at work, a new one gets a place of
// the reserve, which serves health checks only.
package gate
