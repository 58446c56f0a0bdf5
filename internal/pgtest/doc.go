// Package pgtest gives each test a PostgreSQL database of its own.
//
// A test binary has one server, started when the first test asks for a
// database, with fsync off. What a test needs in its database is a Template,
// built once for each binary; New clones it in about 50 ms, and the clone is
// dropped when the test ends. So tests run in parallel and see nothing of each
// other, except for what a cluster shares: roles, transaction ids, the
// notification queue's size.
//
// TestMain calls Main, which stops the server and then looks for goroutines
// that a test has left.
//
// The environment variable PGTEST_BIN chooses the folder of initdb and
// postgres, to test with another version. PGTEST_POOLER, the path of pgbouncer,
// has each server get one in transaction mode, and WorkerURLs lead through it.
package pgtest
