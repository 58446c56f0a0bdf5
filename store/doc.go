// Package store is the product's SQL and nothing but.
//
// What it guarantees, and on what PostgreSQL's guarantee rests:
//
//   - Every usage row that commits is counted in exactly one tick. A tick reads
//     the rows whose transaction is visible to its snapshot and was not visible
//     to the snapshot of the tick before (PostgreSQL manual, 9.27 "Transaction
//     ID and Snapshot Information Functions"), in one REPEATABLE READ
//     transaction (13.2.2).
//   - Ticks form a chain. Each inserts the id after the one it has read, so two
//     workers that both believe they lead cannot both commit.
//   - Totals, marks, alert rows and notifications change in the transaction
//     that extends the chain, or not at all.
//
// Nothing here knows what a threshold means: a tick takes the decision as a
// function.
package store
