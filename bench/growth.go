package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A setting is what the cost of a tick may depend on.
type setting struct {
	History   int `json:"history"`   // rows of ai_usage_logs before
	Users     int `json:"users"`     // each with a row in usage_periods
	Rows      int `json:"rows"`      // that the tick counts, each of another user
	Crossings int `json:"crossings"` // users among those who cross a threshold
	Open      int `json:"open"`      // transactions that have written a row and wait for their client
	// Corrections that once waited all at the same time, and have been dealt with.
	Corrections int `json:"corrections"`
	Alerts      int `json:"alerts"`            // that each of the tick's users was told in earlier months
	Budgets     int `json:"budgets,omitempty"` // organizations with one, of all that there are
	// Alone: ticks of other databases do not come between, which leaves the
	// CPU's caches to these. Open transactions are in the snapshots of all
	// databases of the server.
	Alone bool `json:"alone,omitempty"`
}

// A growthForm says which values each dimension takes while the others stay at
// the base.
type growthForm struct {
	Base      setting `json:"base"`
	Histories []int   `json:"histories"`
	Users     []int   `json:"users"`
	Rows      []int   `json:"rows"`
	Crossings []int   `json:"crossings"` // in ticks of as many rows as are the most
	Open      []int   `json:"open"`
	// Corrections and Alerts are what has been; the latter with ticks in which
	// everybody crosses.
	Corrections []int         `json:"corrections"`
	Alerts      []int         `json:"alerts"`
	Budgets     []int         `json:"budgets"`    // as Crossings
	Turns       int           `json:"turns"`      // of each setting
	Ticks       int           `json:"ticks"`      // measured in each turn
	Horizon     time.Duration `json:"horizon_ns"` // how long another session holds it back; 0: not played
}

// A dimension is a table of the report.
type dimension struct {
	name     string
	base     setting // whom the others are compared with
	settings []setting
	of       func(*setting) *int
}

func (d dimension) value(s setting) int { return *d.of(&s) }

func (f growthForm) dimensions() []dimension {
	var all []dimension
	vary := func(name string, base setting, of func(*setting) *int, values []int) {
		d := dimension{name: name, base: base, of: of}
		for _, v := range values {
			s := base
			*of(&s) = v
			s.History = max(s.History, s.Users) // each total needs a row
			d.settings = append(d.settings, s)
		}
		all = append(all, d)
	}
	crossing, told, alone := f.Base, f.Base, f.Base
	crossing.Rows = slices.Max(f.Rows)
	told.Crossings = told.Rows
	alone.Alone = true
	in := func(s setting) string { return " in a tick of " + thousands(float64(s.Rows)) + " rows" }
	vary("rows of history", f.Base, func(s *setting) *int { return &s.History }, f.Histories)
	vary("users", f.Base, func(s *setting) *int { return &s.Users }, f.Users)
	vary("rows in the tick", f.Base, func(s *setting) *int { return &s.Rows }, f.Rows)
	vary("crossings"+in(crossing), crossing, func(s *setting) *int { return &s.Crossings }, f.Crossings)
	vary(fmt.Sprintf("organizations with a budget, of %d,%s", organizations, in(crossing)), crossing, func(s *setting) *int { return &s.Budgets }, f.Budgets)
	vary("open transactions", alone, func(s *setting) *int { return &s.Open }, f.Open)
	vary("corrections that once waited", f.Base, func(s *setting) *int { return &s.Corrections }, f.Corrections)
	vary("earlier alerts of each user who crosses"+in(told), told, func(s *setting) *int { return &s.Alerts }, f.Alerts)
	return all
}

// settings are those of all dimensions, each once.
func (f growthForm) settings() []setting {
	var all []setting
	for _, d := range f.dimensions() {
		for _, s := range d.settings {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

// A growthPlay is what the ticks of one turn of a setting cost.
type growthPlay struct {
	Turn         int       `json:"turn"`
	Setting      setting   `json:"setting"`
	Milliseconds []float64 `json:"ms"`
	CPU          []float64 `json:"cpu_ms"`    // of the server's process; 0: unknown
	WAL          []float64 `json:"wal_bytes"` // of the server
	Buffers      int64     `json:"buffers"`   // that one tick read, in shared_buffers or not; 0: unknown
}

type growth struct {
	*player
	templates map[setting]*template // by history and users
}

func (p *player) newGrowth(ctx context.Context) (*growth, error) {
	g := &growth{player: p, templates: map[setting]*template{}}
	if !p.plays(cellGrowth) {
		return g, nil
	}
	for _, s := range p.form.Growth.settings() {
		key := s.database()
		if g.templates[key] != nil {
			continue
		}
		p.say(fmt.Sprintf("making a database with %d rows of history of %d users", s.History, s.Users), p.options)
		t, err := p.newTemplate(ctx, fmt.Sprintf("growth%d", len(g.templates)), s.Users, s.History, growthLimit)
		if err == nil {
			err = p.countOnce(ctx, t)
		}
		if err != nil {
			return nil, err
		}
		g.templates[key] = t
	}
	return g, nil
}

// database is what the settings have in common that can use one template.
func (s setting) database() setting { return setting{History: s.History, Users: s.Users} }

func (g *growth) steps() int {
	if len(g.templates) == 0 {
		return 0
	}
	n := g.form.Growth.Turns
	if g.form.Growth.Horizon > 0 {
		n++
	}
	return n
}

// play has turns of its own in place of rounds: what it measures needs no new
// databases.
func (g *growth) play(ctx context.Context, round int) error {
	if len(g.templates) == 0 || round > 0 {
		return nil
	}
	groups := make([][]*grower, 1) // the first takes turns, tick by tick
	for _, s := range g.form.Growth.settings() {
		w, err := g.newGrower(ctx, s)
		if err != nil {
			return fmt.Errorf("%+v: %w", s, err)
		}
		if s.Alone {
			groups = append(groups, []*grower{w})
		} else {
			groups[0] = append(groups[0], w)
		}
	}
	for turn := range g.form.Growth.Turns {
		for _, group := range groups {
			if err := g.turn(ctx, group, turn); err != nil {
				return err
			}
		}
		g.step("how a tick grows, turn %d of %d", turn+1, g.form.Growth.Turns)
	}
	for _, group := range groups {
		for _, w := range group {
			if err := w.drop(ctx); err != nil {
				return err
			}
		}
	}
	if g.form.Growth.Horizon > 0 {
		return g.playHorizon(ctx)
	}
	return nil
}

// turn measures settings tick by tick, so that the machine is the same for all.
func (g *growth) turn(ctx context.Context, group []*grower, turn int) error {
	plays := map[*grower]*growthPlay{}
	for _, w := range group {
		release, err := w.hold(ctx)
		defer release()
		if err != nil {
			return fmt.Errorf("%+v: %w", w.setting, err)
		}
		plays[w] = &growthPlay{Turn: turn + 1, Setting: w.setting}
	}
	if err := buffers(ctx, group, plays); err != nil {
		return err
	}
	for tick := range g.form.Growth.Ticks {
		for _, w := range rotated(group, tick) {
			c, err := w.writeAndTick(ctx)
			if err != nil {
				return fmt.Errorf("%+v: %w", w.setting, err)
			}
			m := plays[w]
			m.Milliseconds, m.CPU, m.WAL = append(m.Milliseconds, c.ms), append(m.CPU, c.cpu), append(m.WAL, float64(c.wal))
		}
	}
	for _, w := range group {
		g.results.Growth = append(g.results.Growth, *plays[w])
	}
	return nil
}
