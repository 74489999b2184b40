// Package testserver gives tests real servers.
//
// A package's tests share one Postgres and one Redis, started when first asked for: containers where a Docker engine
// answers, else programs of this machine (package servers). SPENDFLUSH_TEST_SERVERS chooses: docker or local insists
// on one of them, auto is the default. SPENDFLUSH_TEST_POSTGRES_IMAGE and SPENDFLUSH_TEST_REDIS_IMAGE name the images.
// No test is skipped for want of a server: it fails and says what to install.
//
// A package that uses it calls Main from TestMain.
package testserver
