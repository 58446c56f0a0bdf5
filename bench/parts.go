package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A part of what an insert carries with tokenalert installed, found by taking
// parts away: each has those before it as well.
type part struct {
	name     string
	none     bool     // tokenalert is not installed
	takeAway []string // of what is installed
}

const (
	takeBell        = "DROP TRIGGER tokenalert_ring ON ai_usage_logs"
	takeCorrections = `DROP TRIGGER tokenalert_usage_changed ON ai_usage_logs; DROP TRIGGER tokenalert_usage_deleted ON ai_usage_logs;
		DROP TRIGGER tokenalert_usage_truncated ON ai_usage_logs`
	takeIndex = "DROP INDEX ai_usage_logs_xact_id_idx"
	// A worker that died while it slept has left the bell armed. Its lease is over.
	leaveArmed = "SELECT setval('tokenalert.doorbell', 1)"
)

var parts = []part{
	{name: "no trigger", none: true},
	{name: "the column", takeAway: []string{takeBell, takeCorrections, takeIndex}},
	{name: "and its index", takeAway: []string{takeBell, takeCorrections}},
	{name: "and the triggers for corrections", takeAway: []string{takeBell}},
	{name: "and the bell's trigger: **all**"},
	{name: "all, after a worker that died asleep", takeAway: []string{leaveArmed}},
}

// partInserts are in one measurement, each in a transaction of its own; so many
// measurements make a turn.
const partInserts, partMeasurements = 300, 40

// A partPlay is what the inserts of one turn took.
type partPlay struct {
	Turn int     `json:"turn"`
	Part string  `json:"part"`
	CPU  float64 `json:"cpu_us"` // of the server's process, per insert; exceeded by nine in ten measurements
}

type partsCell struct {
	*player
	template *template
}

func (p *player) newParts(ctx context.Context) (*partsCell, error) {
	c := &partsCell{player: p}
	if !p.plays(cellParts) || onCPU(int(p.admin.PgConn().PID())) == 0 { // this system does not say
		return c, nil
	}
	var err error
	c.template, err = p.newTemplate(ctx, "parts", costUsers, 0, costLimit)
	return c, err
}

func (c *partsCell) steps() int {
	if c.template == nil {
		return 0
	}
	return c.form.Parts
}

// play plays once in a run, in turns of its own. No worker runs.
func (c *partsCell) play(ctx context.Context, round int) (err error) {
	if c.template == nil || round > 0 {
		return nil
	}
	var writers []*partWriter
	defer func() {
		for _, w := range writers {
			err = errors.Join(err, w.conn.Close(ctx), w.db.drop(ctx))
		}
	}()
	for _, part := range parts {
		w, err := c.writer(ctx, part)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		writers = append(writers, w)
	}
	for turn := range c.form.Parts {
		took := map[*partWriter][]float64{}
		for n := range partMeasurements {
			for _, w := range rotated(writers, n) {
				before := onCPU(w.process)
				if _, err := w.conn.Exec(ctx, w.inserts, pgx.QueryExecModeSimpleProtocol); err != nil {
					return err
				}
				took[w] = append(took[w], milliseconds(onCPU(w.process)-before)*1000/partInserts)
			}
		}
		var said []string
		for _, w := range writers {
			m := partPlay{turn + 1, w.part.name, percentile(took[w], 0.1)}
			c.results.Parts = append(c.results.Parts, m)
			said = append(said, tenths(m.CPU))
		}
		c.step("parts of an insert, turn %d of %d: %s µs", turn+1, c.form.Parts, strings.Join(said, ", "))
	}
	return nil
}

// A partWriter inserts in one session, in a loop of the server's own, so that
// nothing else is measured.
type partWriter struct {
	part    part
	db      *database
	conn    *pgx.Conn
	process int
	inserts string
}

func (c *partsCell) writer(ctx context.Context, part part) (*partWriter, error) {
	e := entry{key: part.name, competitor: tokenalert{}}
	if part.none {
		e.competitor = none{}
	}
	db, err := c.clone(ctx, c.template, e)
	if err != nil {
		return nil, err
	}
	if err := db.set(ctx, commits[0].settings); err != nil {
		return nil, err
	}
	for _, sql := range part.takeAway {
		if _, err := db.control.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.Connect(ctx, db.hostURL())
	if err != nil {
		return nil, err
	}
	u := db.users[0]
	return &partWriter{part, db, conn, int(conn.PgConn().PID()), fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..%d LOOP
			PERFORM log_ai_usage('%s', '%s', 1, 1, 0, '/api/chat', 'example-model', 'chat', '{}', 'What is a token?', 'A piece of a word.');
			COMMIT;
		END LOOP;
	END $$`, partInserts, u.id, u.organization)}, nil
}

// partFigure is what inserts take with a part, and how much more than without
// anything of ours in the same turn.
func (r *results) partFigure(name string) (cpu, more spread) {
	var values, differences []float64
	for _, m := range r.Parts {
		if m.Part != name {
			continue
		}
		values = append(values, m.CPU)
		i := slices.IndexFunc(r.Parts, func(base partPlay) bool { return base.Turn == m.Turn && base.Part == parts[0].name })
		differences = append(differences, m.CPU-r.Parts[i].CPU)
	}
	return spreadOf(values), spreadOf(differences)
}
