// Package demo plays the host: it makes its tables, users who use tokens, and
// a count by plain SQL that shares nothing with the worker but the rows.
package demo
