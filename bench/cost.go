package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
)

// A costPlay is what one competitor's inserts did under one setting.
type costPlay struct {
	Round      int     `json:"round"`
	Competitor string  `json:"competitor"`
	History    int     `json:"history"`
	Commit     string  `json:"commit"`
	Clients    int     `json:"clients"`
	Rows       int     `json:"rows"`
	Seconds    float64 `json:"seconds"`
	Rate       float64 `json:"rows_per_second"`
	P99        float64 `json:"p99_ms"`
	Behind     float64 `json:"behind_seconds"` // what the worker took after the last insert to tell all
	latencies  []float64
}

// commits are how a commit behaves, for the writers and the worker alike.
var commits = []struct {
	name     string
	settings map[string]string
}{
	// Nobody waits for the disk: the CPU is the limit.
	{"fast commits", map[string]string{"synchronous_commit": "off", "commit_delay": "0"}},
	// The disk, and a millisecond on top, always: as on a network volume.
	{"1 ms commits", map[string]string{"synchronous_commit": "on", "commit_delay": "1000", "commit_siblings": "0"}},
}

// costUsers share the rows: with the subset's history each has made a thousand
// calls this month.
const costUsers = 100

// costLimit has users cross at any time: one after a few calls more, another
// after thousands.
func costLimit(i, used int) int {
	more := (1 + i*i) * tokensPerCall / 2
	return (used + more) * 100 / 80
}

type cost struct {
	*player
	templates []*template
}

func (p *player) newCost(ctx context.Context) (*cost, error) {
	c := &cost{player: p}
	if !p.plays(cellCost) {
		return c, nil
	}
	for _, history := range p.form.Histories {
		p.say(fmt.Sprintf("making a database with %d rows of history", history), p.options)
		t, err := p.newTemplate(ctx, fmt.Sprintf("cost%d", history), costUsers, history, costLimit)
		if err != nil {
			return nil, err
		}
		c.templates = append(c.templates, t)
	}
	return c, nil
}

func (c *cost) steps() int {
	return len(c.templates) * len(commits) * len(c.form.Clients) * len(c.variants())
}

// play has a database for each competitor, with and without history.
func (c *cost) play(ctx context.Context, round int) error {
	for _, t := range c.templates {
		var dbs []*database
		for _, e := range c.variants() {
			db, err := c.settled(ctx, t, e)
			dbs = append(dbs, db)
			if err != nil {
				return errors.Join(err, stopAll(dbs))
			}
		}
		if err := c.playOne(ctx, t, dbs, round); err != nil {
			return errors.Join(err, stopAll(dbs))
		}
	}
	return nil
}

// playOne measures all under each setting, turn by turn, so that the machine is
// the same for all, and checks them at the end.
func (c *cost) playOne(ctx context.Context, t *template, dbs []*database, round int) error {
	turn := round
	for _, commit := range commits {
		for _, db := range dbs {
			if err := db.set(ctx, commit.settings); err != nil {
				return err
			}
		}
		for _, clients := range c.form.Clients {
			plays := map[*database]*costPlay{}
			for _, db := range dbs {
				plays[db] = &costPlay{Round: round + 1, Competitor: db.key, History: t.rows, Commit: commit.name, Clients: clients}
			}
			for range c.form.Turns {
				for _, db := range rotated(dbs, turn) {
					if err := c.measure(ctx, db, plays[db]); err != nil {
						return fmt.Errorf("%s, %d clients, %s: %w", commit.name, clients, db.key, err)
					}
				}
				turn++
			}
			for _, db := range dbs {
				m := plays[db]
				if err := m.sum(); err != nil {
					return err
				}
				c.results.Cost = append(c.results.Cost, *m)
				c.step("%s, %s, clients: %d, %s: %.0f rows/s, p99 %.1f ms", historyName(t.rows), commit.name, clients, db.key, m.Rate, m.P99)
			}
		}
	}
	for _, db := range dbs {
		if err := db.start(ctx); err != nil {
			return err
		}
		if _, err := c.check(ctx, db, cellCost, historyName(t.rows), round+1); err != nil {
			return err
		}
	}
	return nil
}

// settled is a clone whose worker has counted what was there, and is gone.
func (p *player) settled(ctx context.Context, t *template, e entry) (*database, error) {
	db, err := p.clone(ctx, t, e)
	if err != nil {
		return nil, err
	}
	err = db.start(ctx)
	if err == nil {
		_, err = db.finished(ctx)
	}
	return db, errors.Join(err, db.stop())
}

func (c *cost) measure(ctx context.Context, db *database, m *costPlay) error {
	if db.dead {
		return c.insert(ctx, db, m)
	}
	if err := db.start(ctx); err != nil {
		return err
	}
	if err := c.insert(ctx, db, m); err != nil {
		return err
	}
	ended := time.Now()
	if _, err := db.finished(ctx); err != nil {
		return err
	}
	m.Behind = max(m.Behind, time.Since(ended).Seconds())
	return db.stop()
}

// insert has each client log one call after the other, on a connection of its
// own, for a slice and a fifth more at its beginning, which is not measured.
func (c *cost) insert(ctx context.Context, db *database, m *costPlay) error {
	latencies := make([][]float64, m.Clients)
	from := time.Now().Add(c.form.Slice / 5)
	until := from.Add(c.form.Slice)
	group, ctx := errgroup.WithContext(ctx)
	for n := range m.Clients {
		group.Go(func() error {
			conn, err := pgx.Connect(ctx, db.hostURL())
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(ctx) }() // all has committed
			for began := time.Now(); began.Before(until); {
				u := db.users[rand.IntN(len(db.users))]
				if err := host.LogUsage(ctx, conn, u.id, u.organization, 1+rand.IntN(tokensPerCall)); err != nil {
					return err
				}
				db.rows.Add(1)
				ended := time.Now()
				if ended.After(from) && ended.Before(until) { // whenever it began: a long one more likely began before
					latencies[n] = append(latencies[n], milliseconds(ended.Sub(began)))
				}
				began = ended
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	m.latencies = slices.Concat(append(latencies, m.latencies)...)
	m.Seconds += c.form.Slice.Seconds()
	return nil
}

// sum works out the figures of all turns.
func (m *costPlay) sum() error {
	m.Rows = len(m.latencies)
	if m.Rows == 0 {
		return fmt.Errorf("%s: not one row in %.1f s", m.Competitor, m.Seconds)
	}
	m.Rate, m.P99 = float64(m.Rows)/m.Seconds, percentile(m.latencies, 0.99)
	m.latencies = nil // there may be a million
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
