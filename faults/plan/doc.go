// Package plan turns a seed into a schedule: what the host's writers do, and
// what goes wrong meanwhile. The same seed gives the same operations and faults
// in the same order; how they interleave is up to the machine.
package plan
