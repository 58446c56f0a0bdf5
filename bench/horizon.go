package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A horizonPlay is how ticks fare while another session keeps an old snapshot,
// so that no dead row can be removed (manual 25.1.2).
type horizonPlay struct {
	Seconds float64     `json:"seconds"`
	Ticks   int         `json:"ticks"`
	Stages  []heldStage `json:"stages"`
}

// A heldStage is a look at the ticks of a short time, and at the table of totals.
type heldStage struct {
	Name         string    `json:"name"`
	Milliseconds []float64 `json:"ms"`
	CPU          []float64 `json:"cpu_ms"`
	Buffers      int64     `json:"buffers"`
	Dead         int64     `json:"dead_rows"`
	Bytes        int64     `json:"bytes"`
}

// horizonRate is how many ticks there are in a second, if the machine can.
const horizonRate = 50

func (g *growth) playHorizon(ctx context.Context) error {
	w, err := g.newGrower(ctx, g.form.Growth.Base)
	if err != nil {
		return err
	}
	var m horizonPlay
	look := func(name string) error {
		stage, err := g.look(ctx, w, name)
		m.Stages = append(m.Stages, stage)
		return err
	}
	if err := look("before"); err != nil {
		return err
	}
	old, err := pgx.Connect(ctx, w.hostURL())
	if err != nil {
		return err
	}
	defer func() { _ = old.Close(ctx) }() // it only reads
	if _, err := old.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM organizations"); err != nil {
		return err
	}
	began := time.Now()
	clock := time.NewTicker(time.Second / horizonRate)
	defer clock.Stop()
	for ; time.Since(began) < g.form.Growth.Horizon; m.Ticks++ {
		if _, err := w.writeAndTick(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-clock.C:
		}
	}
	m.Seconds = time.Since(began).Seconds()
	if err := look("at the end"); err != nil {
		return err
	}
	if err := old.Close(ctx); err != nil {
		return err
	}
	if _, err := w.control.Exec(ctx, "VACUUM tokenalert.usage_periods"); err != nil {
		return err
	}
	if err := look("let go, after VACUUM"); err != nil {
		return err
	}
	g.results.Horizon = &m
	g.step("the horizon held for %.0f s: %d ticks", m.Seconds, m.Ticks)
	return w.drop(ctx)
}

// look measures as many ticks as all turns have of a setting.
func (g *growth) look(ctx context.Context, w *grower, name string) (heldStage, error) {
	var m growthPlay
	if err := buffers(ctx, []*grower{w}, map[*grower]*growthPlay{w: &m}); err != nil {
		return heldStage{}, err
	}
	s := heldStage{Name: name, Buffers: m.Buffers}
	for range g.form.Growth.Turns * g.form.Growth.Ticks {
		c, err := w.writeAndTick(ctx)
		if err != nil {
			return s, err
		}
		s.Milliseconds, s.CPU = append(s.Milliseconds, c.ms), append(s.CPU, c.cpu)
	}
	err := w.control.QueryRow(ctx, `SELECT n_dead_tup, pg_relation_size(relid) FROM pg_stat_user_tables
		WHERE relid = 'tokenalert.usage_periods'::regclass`).Scan(&s.Dead, &s.Bytes)
	return s, err
}
