// Package oracle says what must be true after a schedule. It is given what the
// writers' transactions changed, in the order in which they took effect, and
// what the database holds in the end, and works out in plain Go every total,
// and which alerts must exist, may exist and must not. It shares no code with
// the worker, and reads nothing that the worker wrote but to judge it.
//
// Which of the states that a user went through were seen by a tick is not
// known, and is not asked: an alert must exist if it follows whichever states
// were seen, the last one among them, and may exist if a state calls for it.
package oracle
