package plan

import (
	"math/rand/v2"
	"slices"
	"time"
)

// FaultKind is something that goes wrong.
type FaultKind string

// What goes wrong. Those of a worker fall mostly on the leader.
const (
	Kill      FaultKind = "kill"      // SIGKILL, and another in its place
	Freeze    FaultKind = "freeze"    // SIGSTOP for longer than the lease, SIGCONT
	Stop      FaultKind = "stop"      // SIGTERM, and another in its place
	Terminate FaultKind = "terminate" // pg_terminate_backend on one of its sessions
	Cut       FaultKind = "cut"       // connections reset, then refused for a while
	Delay     FaultKind = "delay"     // everything arrives late
	Drip      FaultKind = "drip"      // answers arrive a few bytes at a time
	Swallow   FaultKind = "swallow"   // what is sent is taken and not passed on
	Drop      FaultKind = "drop"      // packets vanish both ways
	DropBack  FaultKind = "drop_back" // what the worker sends arrives, the answers vanish
	Crash     FaultKind = "crash"     // PostgreSQL stopped at once, and started again
	Exhaust   FaultKind = "exhaust"   // no connection is left, and sessions end
	ReadOnly  FaultKind = "read_only" // transactions only read
	Migrate   FaultKind = "migrate"   // the schema goes down and comes up again
)

// FaultKinds are all of them.
var FaultKinds = []FaultKind{
	Kill, Freeze, Stop, Terminate, Cut, Delay, Drip, Swallow, Drop, DropBack, Crash, Exhaust, ReadOnly, Migrate,
}

// A Stage is a point in a tick at which it can be held open.
type Stage int

// The stages of a tick.
const (
	Anytime    Stage = iota
	Counting         // before the totals are written
	Telling          // before notifications are written
	Committing       // in COMMIT
	Queueing         // before deliveries are written
)

func (s Stage) String() string {
	return [...]string{"anytime", "counting", "telling", "committing", "queueing"}[s]
}

// A Fault is one of them at a moment.
type Fault struct {
	Kind  FaultKind
	After time.Duration // since the fault before
	Stage Stage         // a tick that is held open there while it happens
	Keep  time.Duration // how long the tick is held from then on
	Fence bool          // it is let go before, as soon as another leader's tick waits for it
	Last  time.Duration // how long until it is mended
	Other bool          // a follower is hit, not the leader
	Value int
}

func faults(r *rand.Rand, kinds []FaultKind) []Fault {
	n := 4 + r.IntN(2)
	var list []Fault
	heavy, silent := 0, 0 // of those that stop everything or outlast the lease, two are enough for five seconds
	for len(list) < n {
		kind := kinds[r.IntN(len(kinds))]
		again := slices.ContainsFunc(list, func(f Fault) bool { return f.Kind == kind })
		if again && (len(list) < 2 || kind == Migrate) {
			continue
		}
		if kind.stopsAll() {
			if heavy++; heavy > 2 {
				continue
			}
		}
		if kind == Freeze || kind == Swallow || kind == Drop || kind == DropBack {
			if silent++; silent > 2 {
				continue
			}
		}
		f := Fault{Kind: kind, After: pauseFault/2 + exponential(r, pauseFault/2), Value: r.IntN(1000), Other: r.IntN(6) == 0}
		if len(list) == 0 {
			f.After = firstFault + rand20(r)
		}
		if r.IntN(5) > 1 {
			f.Stage = Stage(1 + r.IntN(3))
			f.Keep = time.Duration(r.IntN(60)) * time.Millisecond
		}
		switch kind {
		case Freeze, Swallow, Drop, DropBack:
			f.Last = 1100*time.Millisecond + rand20(r)
			switch r.IntN(4) {
			case 0, 1: // its tick commits in the middle of another leader's
				f.Stage, f.Fence = Committing, true
				f.Last += 300 * time.Millisecond
				f.Keep = f.Last
			case 2: // its tick goes on when another leads
				if f.Stage != Anytime {
					f.Keep = f.Last - rand20(r)
				}
			}
		case Delay, Drip:
			f.Last = 300*time.Millisecond + 2*rand20(r)
		case Terminate, Crash: // what is cut off here must take everything with it
			if r.IntN(2) == 0 {
				f.Stage = Telling
			}
			f.Last = rand20(r)
		case Kill, Stop:
			f.Last = rand20(r)
		case Cut, Exhaust, ReadOnly:
			f.Last = 100*time.Millisecond + 2*rand20(r)
		}
		list = append(list, f)
	}
	return list
}

// stopsAll reports whether writers stop as well.
func (k FaultKind) stopsAll() bool {
	return k == Crash || k == Exhaust || k == ReadOnly || k == Migrate
}
