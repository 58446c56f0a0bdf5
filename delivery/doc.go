// Package delivery hands alerts over to where people look: the notifications of
// another database, e-mail, a webhook.
//
//	tick: alert row ─┬─ notification     one transaction, so an alert that
//	                 └─ a job a channel  committed will be delivered, and one
//	                        │            that rolled back never is
//	                        ▼
//	        River's queue (tokenalert.river_job), worked by all replicas
//	          │ delivered │ failed: tried again with growing pauses, for a day
//	          ▼           ▼
//	      completed    cancelled, where it was refused for good or the day is over
//
// What it promises:
//
//   - At least once. A worker that dies between handing an alert over and saying
//     so hands it over again. Each carries the alert's id, or for a notification
//     the notification's, which derive from the alert's unique key: whoever
//     receives it twice can tell. The notification's copy is there once.
//   - What one channel meets holds up no other: each has a queue and workers of
//     its own, and no mail server gets more than a few of them at a time.
//   - No secret is in a log line, an error, or the queue.
package delivery
