// Package lane plays schedules, one after the other, on a PostgreSQL server of
// its own: it starts workers as processes, has writers do what the plan says,
// makes things go wrong, mends them, and asks the oracle.
//
// What keeps the writers' account exact: each user but the shared ones, who are
// only ever added to, is changed by one writer; a writer commits one transaction
// at a time; each takes a number from a sequence as its last statement, while it
// holds the lock that a TRUNCATE would wait for; and where a connection breaks in
// COMMIT, a row of the transaction's own says what became of it. (Its id would
// not: after a crash the server may give the id of one that was lost to another.)
package lane
