// Package httpapi is the HTTP face of one instance: it takes updates, and tells what was spent.
//
//	POST /v1/updates                                  record updates; ?ack=accepted|queued|committed, ?timeout=10s
//	GET  /v1/spend/{entity_type}/{entity_id}          what one entity has spent
//	GET  /v1/spend/team_member/{team_id}/{user_id}    the same of a member of a team
//	GET  /v1/usage                                    rollups by hour, day or in total, as JSON or CSV
//	GET  /v1/status, /v1/audit                        this instance; whether the books add up
//	GET  /metrics, /healthz, /readyz, /               for Prometheus, for whoever starts processes, for people
//
// Everything but /healthz and /readyz needs a bearer token where tokens are configured. Every failure is an
// application/problem+json document (RFC 9457); the types are listed in problem.go.
//
// # Updates
//
// A request is all or nothing. It passes three hands: body.go reads the bytes, within bounds on one request and on all
// of them together; decode.go makes updates of them, never through a float, and gathers what is wrong by index and
// field; the Recorder checks and counts them. The texts of an update are parts of one string, a copy of the body made
// for the request: nothing that outlives the request can see its buffers change.
//
// # Time
//
// A request must arrive within the server's ReadTimeout, and each piece of an answer must be taken within its
// WriteTimeout. A wait for an acknowledgement and a report move the latter along, as much as they may take.
package httpapi
