// Package testserver gives tests real servers.
//
// A package's tests share one Postgres and one Redis: those that SPENDFLUSH_TEST_POSTGRES_URL and
// SPENDFLUSH_TEST_REDIS_URL name, else programs of this machine (package servers), started when
// first asked for. What is named must be empty and for one package at a time: tests make databases
// and roles in it and delete what is there. "make containers" starts a pair in containers for each
// package. SPENDFLUSH_TEST_SERVERS insists: local on programs of this machine, docker on what is
// named; auto is the default. No test is skipped for want of a server: it fails and says what to
// install.
//
// A package that uses it calls Main from TestMain.
package testserver
