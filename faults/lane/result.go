package lane

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
)

// A Landing counts how often a kind of fault happened, and how often of these
// while a tick was open, or, of a receiver's, with a delivery that came meanwhile.
type Landing struct{ All, Open int }

// What a schedule must have to count.
const (
	minRows      = 2000
	minCrossings = 20
	minFaults    = 3
	minKinds     = 2
)

// A Result is what came of a schedule.
type Result struct {
	Seed     uint64                     `json:"seed"`
	Server   int                        `json:"server"`           // server_version_num
	Faults   []string                   `json:"faults,omitempty"` // what is wrong
	Missed   int                        `json:"missed"`
	Doubled  int                        `json:"doubled"`
	Totals   int                        `json:"totals"` // wrong ones
	Wrong    int                        `json:"wrong"`
	Rows     int                        `json:"rows"` // committed
	Expected int                        `json:"expected"`
	Possible int                        `json:"possible"`
	Told     int                        `json:"told"`
	Budgets  oracle.BudgetCounts        `json:"budgets"`
	Landed   map[plan.FaultKind]Landing `json:"landed"`
	// Deliveries that had to arrive, messages that did, and those of them that
	// had arrived before, each once more because of a fault; and what is wrong.
	Deliveries      int                        `json:"deliveries"`
	Received        int                        `json:"received"`
	Repeated        int                        `json:"repeated"`
	WrongDeliveries int                        `json:"wrong_deliveries"`
	Spoilt          map[plan.FaultKind]Landing `json:"spoilt"`  // faults of receivers
	Events          map[string]int             `json:"events"`  // of the workers' logs
	Longest         time.Duration              `json:"longest"` // tick, by the same
	Settled         time.Duration              `json:"settled"`
	Took            time.Duration              `json:"took"`
	TooSmall        string                     `json:"too_small,omitempty"` // why it does not count
}

// OK reports whether nothing is wrong.
func (r *Result) OK() bool { return len(r.Faults) == 0 }

// wrong notes what is wrong with a worker besides what the oracle sees.
func (s *site) wrong(err error) {
	s.trace("wrong", "error", err.Error())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result.Wrong++
	s.result.Faults = append(s.result.Faults, "worker: "+err.Error())
}

// judge asks the oracle until nothing is wrong, or it takes too long, and once
// more when the workers have stopped.
func (s *site) judge(ctx context.Context) {
	began := time.Now()
	deadline := began.Add(settleWithin)
	var v *oracle.Verdict
	for {
		var err error
		if v, err = s.ask(ctx); err != nil {
			s.trace("judge", "error", err.Error())
			v = &oracle.Verdict{Laboratory: []string{err.Error()}}
		} else if v.OK() {
			break
		}
		s.hurry(ctx, true)
		if time.Now().After(deadline) || !pause(ctx, 30*time.Millisecond) {
			break
		}
	}
	s.result.Settled = time.Since(began)
	s.trace("settled")
	if v.OK() {
		s.deliverAgain(ctx)
	}
	s.trace("stopping")
	if err := s.stopWorkers(); err != nil {
		s.wrong(err)
	}
	if v.OK() {
		var err error
		if v, err = s.ask(ctx); err != nil {
			v = &oracle.Verdict{Laboratory: []string{err.Error()}}
		}
	}
	s.trace("verdict", "faults", v.Faults(), "expected", v.Expected, "possible", v.Possible, "told", v.Told)
	for _, line := range v.Laboratory {
		s.fail(errors.New(line))
	}
	r := &s.result
	r.Missed, r.Doubled, r.Totals, r.WrongDeliveries = len(v.Missed), len(v.Doubled), len(v.Totals), len(v.Deliveries)
	r.Deliveries, r.Received, r.Repeated = v.Due, v.Received, v.Repeated
	r.Wrong += len(v.Wrong)
	r.Faults = append(r.Faults, v.Faults()...)
	r.Expected, r.Possible, r.Told, r.Budgets = v.Expected, v.Possible, v.Told, v.Budgets
	s.readLogs()
	s.measure()
}

func (s *site) ask(ctx context.Context) (*oracle.Verdict, error) {
	// What has arrived by now has committed before.
	receipts, copies, err := s.arrived(ctx)
	if err != nil {
		return nil, err
	}
	db, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	db.Receipts, db.Copies = receipts, copies
	s.mu.Lock()
	w := &oracle.World{
		Zone: s.zone, Thresholds: plan.Thresholds, Ended: s.now(), Users: s.began, Changes: s.changes,
		FullCounts: s.fullCounts.Load(), Budgets: s.budgets,
		Webhook: slices.ContainsFunc(s.plan.Channels, func(c []string) bool { return slices.Contains(c, plan.Webhook) }),
	}
	s.mu.Unlock()
	return oracle.Judge(w, db), nil
}

// measure says whether the schedule had enough of everything.
func (s *site) measure() {
	r := &s.result
	for _, c := range s.changes {
		r.Rows += len(c.Insert)
	}
	landed := 0
	for _, l := range r.Landed {
		landed += l.All
	}
	switch {
	case r.Rows < minRows:
		r.TooSmall = fmt.Sprintf("%d rows", r.Rows)
	case r.Expected < minCrossings:
		r.TooSmall = fmt.Sprintf("%d crossings", r.Expected)
	case landed < minFaults || len(r.Landed) < minKinds:
		r.TooSmall = fmt.Sprintf("%d faults of %d kinds", landed, len(r.Landed))
	}
}

// readLogs counts the workers' events, and looks for what no log may say.
func (s *site) readLogs() {
	r := &s.result
	r.Events = map[string]int{}
	told := map[string]int{}
	for _, w := range s.slots {
		for _, path := range w.logs {
			if err := r.readLog(path, told); err != nil {
				s.wrong(err)
			}
		}
	}
	if n := r.Events["user.set_aside"]; n > 0 { // nobody's data is at fault here
		s.wrong(fmt.Errorf("%d times a decision could not be written, and somebody was set aside", n))
	}
	for notification, n := range told {
		if n > 1 {
			r.Doubled++
			r.Faults = append(r.Faults, fmt.Sprintf("doubled: the logs say %d times that the notification %s was sent", n, notification))
		}
	}
}

func (r *Result) readLog(path string, told map[string]int) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was read
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Event, Kind, Notification string
			Bounded                   bool
			Duration                  float64 `json:"duration_ms"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			if strings.Contains(lines.Text(), "panic") || strings.Contains(lines.Text(), "goroutine") {
				return fmt.Errorf("%s: %s", filepath.Base(path), lines.Text())
			}
			continue // the last line of one that was killed, or an error for people
		}
		r.Events[line.Event]++
		if line.Bounded {
			r.Events["tick.bounded"]++
		}
		if line.Event == "tick.completed" {
			r.Longest = max(r.Longest, time.Duration(line.Duration*float64(time.Millisecond)))
			if line.Kind == "full" {
				r.Events["tick.full"]++
			}
		}
		if line.Event == "alert.sent" || line.Event == "budget.sent" {
			told[line.Notification]++
		}
	}
	return lines.Err()
}

// finish keeps the traces of what went wrong, with the data, and removes others.
func (s *site) finish(ctx context.Context) {
	if s.result.OK() {
		if !s.lane.o.Keep {
			_ = os.RemoveAll(s.directory) // what is left is only in the way
		}
		return
	}
	if err := s.keepData(ctx); err != nil {
		s.trace("laboratory", "error", "keep the data: "+err.Error())
	}
}

// keepData copies the database as it is beside the trace.
func (s *site) keepData(ctx context.Context) error {
	if err := s.lane.server.StopImmediate(ctx); err != nil {
		return err
	}
	err := os.CopyFS(filepath.Join(s.directory, "data"), os.DirFS(s.lane.server.DataDirectory()))
	return errors.Join(err, s.lane.server.Restart(ctx))
}

// Kind says in a few words what is wrong.
func (r *Result) Kind() string {
	kind := fmt.Sprintf("%d missed, %d doubled, %d wrong totals, %d wrong alerts", r.Missed, r.Doubled, r.Totals, r.Wrong)
	if r.WrongDeliveries > 0 {
		kind += fmt.Sprintf(", %d wrong deliveries", r.WrongDeliveries)
	}
	return kind
}
