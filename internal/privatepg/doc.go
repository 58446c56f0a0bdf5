// Package privatepg runs a PostgreSQL server that belongs to one process: for
// the tests, and for the demo, which needs a database without asking for one.
//
// What it promises:
//
//   - Nothing is shared. The server has its own temporary directory, readable
//     by its own user only, and listens on a Unix socket in it. It trusts
//     whoever can reach that socket.
//   - Nothing is left behind. Stop removes the directory. On Linux a server
//     does not outlive its process, even one that is killed with SIGKILL; the
//     directory that such a process leaves is removed by the next Start, of
//     any process, and never while a server still uses it.
//   - It also works for root, as which PostgreSQL refuses to run: the server
//     then runs as the user postgres, or else as nobody.
//   - It is fast, and not durable: fsync and full_page_writes are off. It
//     survives its own crash, but not the machine's.
//
// StartPooler puts a PgBouncer before the server, where one is installed.
//
// PostgreSQL is taken from Options.BinDir, from PATH, from the folders where
// distributions install it, or else downloaded once into a cache.
package privatepg
