package plan

import (
	"math/rand/v2"
	"slices"
	"time"
)

// The channels that alerts are delivered by.
const (
	Notification = "notification" // a copy in another database, the inbox
	Email        = "email"
	Webhook      = "webhook"
)

// Channels are all of them.
var Channels = []string{Notification, Email, Webhook}

// What goes wrong where an alert is to arrive.
const (
	Refuse     FaultKind = "refuse"      // it is read, and answered with a failure that may pass
	HangUp     FaultKind = "hang_up"     // the connection is closed before anything is read
	LoseAnswer FaultKind = "lose_answer" // it is received, and the connection closed in place of an answer
	Slow       FaultKind = "slow"        // it is answered late
	Down       FaultKind = "down"        // nobody listens
	CloseInbox FaultKind = "close_inbox" // the other database takes no connections, and ends those that it has
	LockInbox  FaultKind = "lock_inbox"  // its notifications are locked
)

// ReceiverFaults are all of them.
var ReceiverFaults = []FaultKind{Refuse, HangUp, LoseAnswer, Slow, Down, CloseInbox, LockInbox}

// A ReceiverFault is one of them, for a while.
type ReceiverFault struct {
	Kind    FaultKind
	Channel string
	After   time.Duration // since the one before was mended
	Last    time.Duration
	Value   int
}

// makeDeliveries has the workers of three schedules in five deliver. It draws
// from numbers of its own, so that all else that a seed does stays as it was, but
// that some ticks are held where they write deliveries.
func (p *Plan) makeDeliveries() {
	r := rand.New(rand.NewPCG(p.Seed, 0x64656c69766572))
	if r.IntN(5) < 2 {
		return
	}
	var chosen []string
	for _, channel := range Channels {
		if r.IntN(3) > 0 {
			chosen = append(chosen, channel)
		}
	}
	if len(chosen) == 0 {
		chosen = []string{pick(r, Channels...)}
	}
	for range p.Workers {
		p.Channels = append(p.Channels, slices.Clone(chosen))
	}
	if r.IntN(4) == 0 { // one worker's settings lack a channel, as while one is introduced
		n, i := r.IntN(p.Workers), r.IntN(len(chosen))
		p.Channels[n] = slices.Delete(p.Channels[n], i, i+1)
	}
	for i := range p.Faults {
		if f := &p.Faults[i]; f.Stage != Anytime && !f.Fence && r.IntN(3) == 0 {
			f.Stage = Queueing
		}
	}
	for range 2 + r.IntN(2) {
		f := ReceiverFault{
			Channel: pick(r, chosen...), After: rand20(r) + 50*time.Millisecond,
			Last: 200*time.Millisecond + 2*rand20(r), Value: r.IntN(1000),
		}
		if f.Channel == Notification {
			f.Kind = pick(r, CloseInbox, LockInbox)
		} else {
			f.Kind = pick(r, Refuse, HangUp, LoseAnswer, Slow, Down)
		}
		p.Receivers = append(p.Receivers, f)
	}
}

// Delivers reports whether any worker does.
func (p *Plan) Delivers() bool { return len(p.Channels) > 0 }
