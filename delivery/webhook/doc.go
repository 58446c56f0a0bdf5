// Package webhook sends an alert to an HTTP endpoint, signed as
// https://www.standardwebhooks.com asks.
//
// Guarantees:
//
//   - A request goes to no private, loopback, link-local or otherwise special
//     address, nor to the metadata service of a cloud, unless the operator
//     allows it. What is checked is the address that is dialled, so that no
//     answer of the DNS gets around it. Redirects are not followed, and no
//     proxy is taken from the environment.
//   - While a secret is rotated, what is sent is signed with both.
//   - A receiver costs a bounded time and a bounded amount of memory, whatever
//     it answers. Nothing of the answer but its status, and for how long to
//     wait, is ever used.
//   - No error holds a path, a query, a user, a secret or a text of the receiver's.
//
// What is sent arrives at least once if it is tried again, and carries the same
// webhook-id each time. When to try again is the caller's to say: see Permanent
// and RetryAfter.
package webhook
