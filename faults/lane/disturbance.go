package lane

import (
	"slices"
	"time"

	"tokenalert/faults/plan"
)

// noteWithin is how long a worker may take to note what has arrived.
const noteWithin = time.Second

// A disturbance is a time within which what a worker did may not have been noted.
type disturbance struct {
	slot     int    // 0: any
	channel  string // empty: any
	from, to time.Time
}

// disturb notes that a fault begins that may keep a worker, or all, from noting
// what has arrived, and returns what notes its end. What only delays does not.
func (s *site) disturb(kind plan.FaultKind, w *slot) (over func()) {
	d := &disturbance{}
	switch kind {
	case plan.Freeze, plan.Stop, plan.Delay, plan.Drip:
		return func() {}
	case plan.Kill, plan.Cut, plan.Swallow, plan.Drop, plan.DropBack:
		d.slot = w.n
	}
	return s.begin(d)
}

func (s *site) disturbReceiver(channel string) (over func()) {
	return s.begin(&disturbance{channel: channel})
}

func (s *site) begin(d *disturbance) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.from = time.Now()
	s.disturbances = append(s.disturbances, d)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		d.to = time.Now()
	}
}

// mayRepeat reports whether it may not have been noted that r has arrived.
func (s *site) mayRepeat(r receipt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hurried[handover{r.Alert, r.Channel}] {
		return true
	}
	return slices.ContainsFunc(s.disturbances, func(d *disturbance) bool {
		return (d.slot == 0 || d.slot == r.slot) && (d.channel == "" || d.channel == r.Channel) &&
			d.from.Before(r.to.Add(noteWithin)) && (d.to.IsZero() || d.to.After(r.from))
	})
}
