// Package mailserver is a real SMTP server on loopback, for tests. It takes
// messages in and keeps them, or behaves as servers do that take none: it
// refuses, greylists, hangs, or hangs up.
//
// Its certificate is made on the spot: Pool trusts it, and PEM is what a
// program trusts it by that reads SSL_CERT_FILE.
package mailserver
