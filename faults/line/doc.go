// Package line is the way from one worker to its server: a proxy that cuts,
// delays and drip-feeds it and, where the machine lets us, a network namespace
// whose packets can be dropped without a word.
//
// On Linux, as root and with ip(8), Enter moves the whole process into a network
// namespace made for it, and each line has another, joined to it by a pair of
// virtual interfaces. Nothing of it can be reached from outside or reaches
// there; the addresses are of 198.18.0.0/15 (RFC 2544). Elsewhere lines lead
// over 127.0.0.1, and Drop is not to be had.
package line
