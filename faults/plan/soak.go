package plan

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Users of each writer, and how a soak is paced: writers times rows an
// operation, every pause.
const (
	soakUsers = 500
	soakRows  = 25
	soakPause = 50 * time.Millisecond
	soakFault = 3 * time.Second
)

// SoakRate is about how many rows a second a soak writes.
const SoakRate = int(writers * soakRows * time.Second / soakPause)

// NewSoak makes one long schedule, of that length: a steady 2,000 rows a second
// with corrections, and a fault every few seconds, of kinds that leave the
// workers alive, so that what they leak adds up.
func NewSoak(seed uint64, length time.Duration, kinds []FaultKind) *Plan {
	r := rand.New(rand.NewPCG(seed, 0x736f616b))
	p := &Plan{Seed: seed, Workers: 3, Bell: true, Zone: "UTC", AheadDays: 1, perWriter: soakUsers, length: length}
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(k FaultKind) bool { return k == Kill || k == Stop || k == Migrate })
	for at := time.Duration(0); at < length; {
		for _, f := range faults(r, kinds) {
			f.After = soakFault/2 + exponential(r, soakFault/2)
			at += f.After
			p.Faults = append(p.Faults, f)
		}
	}
	p.makeUsers(r)
	for w := range writers {
		var ops []Op
		for at := time.Duration(0); at < length; {
			op := p.op(r, w, pick(r, Insert, Insert, Insert, Insert, Copy, Savepoints, Long, Rollback, ChangeTokens, MoveRow, DeleteRows, HoldUser))
			op.After = exponential(r, soakPause)
			for len(op.Rows) > 0 && len(op.Rows) < soakRows*7/5 { // some operations write none
				op.Rows = append(op.Rows, p.op(r, w, Insert).Rows...)
			}
			at += op.After
			ops = append(ops, op)
		}
		p.Writers = append(p.Writers, ops)
	}
	p.setLimits(r)
	return p
}

// Length is how long the writers write by the plan, where it is a long one.
func (p *Plan) Length() time.Duration { return p.length }
