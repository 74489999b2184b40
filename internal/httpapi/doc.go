// Package httpapi is the HTTP face of one instance: it takes updates, and tells what was spent.
//
//	POST /v1/updates                                  record updates; ?ack=accepted|queued|committed, ?timeout=10s
//	GET  /v1/spend/{entity_type}/{entity_id}          what one entity has spent
//	GET  /v1/usage, /v1/entities                      rollups and top lists, as JSON or CSV; entities by their ids
//	GET  /v1/pipeline, /v1/events, /v1/status         how everything stands, once or every second; this instance
//	GET  /v1/audit, /v1/quarantine, /v1/lost-batches  whether the books add up; what could not be booked
//	     /v1/session, /, /assets/…                    the page for people, and its sign-in
//	GET  /metrics, /healthz, /readyz                  for Prometheus, for whoever starts processes
//	GET  /openapi.json                                all of this, with every parameter and answer
//
// openapi.json is written by hand, and the tests hold every answer to it (contract_test.go):
// whoever changes the API changes it there, too. A failure is an application/problem+json document
// (RFC 9457); the types are listed in problem.go.
//
// # Updates
//
// A request is all or nothing. It passes three hands: body.go reads the bytes, within bounds on one
// request and on all of them together; decode.go makes updates of them, never through a float, and
// gathers what is wrong by index and field; the Recorder checks and counts them. The texts of an
// update are parts of one string, a copy of the body made for the request: nothing that outlives
// the request can see its buffers change.
//
// # Time
//
// A request must arrive within the server's ReadTimeout, and each piece of an answer must be taken
// within its WriteTimeout. A wait for an acknowledgement and a report move the latter along, as
// much as they may take.
package httpapi
