// Package host has the tables of the learning platform that tokenalert serves,
// as far as tokenalert meets them, for the tests and the demo: a stand-in for
// the real databases, written from a description of them. The SQL files are
// the reference; where they are odd, the host is.
package host
