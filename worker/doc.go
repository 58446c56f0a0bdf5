// Package worker is the daemon: it takes the lead, counts what has committed,
// decides who must be told, and says what it did.
//
//	           connect            lock taken
//	starting ──────────► follower ───────────► leader
//	   ▲                    │                    │
//	   └────── database ────┴──── lead lost ─────┘
//	             lost
//
// A leader is in one of three states:
//
//	         nothing for a while              no older transaction runs
//	busy ──────────────────────► settling ──────────────────────────► asleep
//	 ▲  ticks; bell silent        │ bell armed, polls                   │ bell armed
//	 └────────── work ────────────┴──────────── rung, or work ──────────┘
//
// Guarantees:
//
//   - Each threshold that is crossed is told once for a user, period and limit,
//     whichever worker leads and however many believe they do: the chain of
//     ticks and the unique key in the database say so (package store), not
//     timing.
//   - Whatever commits while the bell is silent is found by the tick that
//     follows; whatever commits while it is armed rings. Between the two stands
//     a barrier (bell.go). A ring that is lost all the same costs at most one
//     renewal of the bell.
//   - A worker that stops, however it stops, leaves nothing half done.
package worker
