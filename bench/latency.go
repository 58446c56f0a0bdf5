package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
)

// A latencyPlay is how long the users of one competitor waited at one rate.
type latencyPlay struct {
	Round        int       `json:"round"`
	Competitor   string    `json:"competitor"`
	Rate         float64   `json:"rows_per_second"` // wanted; 0: single rows after a pause
	Reached      float64   `json:"reached_rows_per_second"`
	Milliseconds []float64 `json:"ms"`
	Unseen       int       `json:"unseen"`
	LookP50      float64   `json:"look_p50_ms"` // between two looks of the observer
	LookP99      float64   `json:"look_p99_ms"`
}

// Every row of this cell is of a user of its own, whom it takes over a threshold.
const (
	latencyLimit   = 1000
	latencyTokens  = 850
	latencyWriters = 16
	warmingRows    = 5
	warmingPause   = 100 * time.Millisecond
	seenWithin     = 20 * time.Second
)

type latency struct {
	*player
	template *template
}

func (p *player) newLatency(ctx context.Context) (*latency, error) {
	l := &latency{player: p}
	if !p.plays(cellLatency) {
		return l, nil
	}
	users := p.form.IdleRows + warmingRows
	for _, rate := range p.form.Rates {
		users += p.form.arrivals(rate)
	}
	p.say(fmt.Sprintf("making a database with %d users", users), p.options)
	var err error
	l.template, err = p.newTemplate(ctx, "latency", users, 0, func(int, int) int { return latencyLimit })
	return l, err
}

// arrivals is how many rows are written at a rate.
func (f form) arrivals(rate float64) int { return min(f.RateRows, int(rate*f.RateFor.Seconds())) }

func (l *latency) steps() int {
	if l.template == nil {
		return 0
	}
	return len(l.tellers()) * (len(l.form.Rates) + 1)
}

// tellers are those who tell anybody.
func (p *player) tellers() []entry { return p.chosen()[1:] }

func (l *latency) play(ctx context.Context, round int) error {
	if l.template == nil {
		return nil
	}
	for _, e := range rotated(l.tellers(), round) {
		db, err := l.settled(ctx, l.template, e)
		if err == nil {
			err = l.playOne(ctx, db, round)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", e.key, err), stopAll([]*database{db}))
		}
	}
	return nil
}

func (l *latency) playOne(ctx context.Context, db *database, round int) error {
	if err := db.start(ctx); err != nil {
		return err
	}
	users := db.users
	take := func(n int) []user {
		taken := users[:n]
		users = users[n:]
		return taken
	}
	// Statements are prepared, and planned for the first time, unmeasured.
	if _, err := l.measure(ctx, db, take(warmingRows), func() time.Duration { return warmingPause }, 1); err != nil {
		return err
	}
	for _, rate := range append([]float64{0}, l.form.Rates...) {
		n, writers := l.form.IdleRows, 1
		pause := func() time.Duration { return l.form.IdlePause }
		if rate > 0 {
			n, writers = l.form.arrivals(rate), latencyWriters
			pause = func() time.Duration { return time.Duration(rand.ExpFloat64() / rate * float64(time.Second)) }
		}
		m, err := l.measure(ctx, db, take(n), pause, writers)
		if err != nil {
			return err
		}
		m.Round, m.Competitor, m.Rate = round+1, db.key, rate
		l.results.Latency = append(l.results.Latency, m)
		l.step("%s, %s: p50 %.1f ms, p99 %.1f ms", rateName(rate), db.key, percentile(m.Milliseconds, 0.5), percentile(m.Milliseconds, 0.99))
	}
	_, err := l.check(ctx, db, cellLatency, "", round+1)
	return err
}

// measure logs a call for each user, with a pause before each, while an
// observer looks for their alerts.
func (l *latency) measure(ctx context.Context, db *database, users []user, pause func() time.Duration, writers int) (latencyPlay, error) {
	config, err := pgxpool.ParseConfig(db.hostURL())
	if err != nil {
		return latencyPlay{}, err
	}
	config.MaxConns, config.MinConns = int32(writers), int32(writers)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return latencyPlay{}, err
	}
	defer pool.Close()
	if err := warm(ctx, pool, writers); err != nil {
		return latencyPlay{}, err
	}
	o, err := newObserver(ctx, db.hostURL())
	if err != nil {
		return latencyPlay{}, err
	}
	group, going := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	began := time.Now()
	for next, i := began, 0; i < len(users) && going.Err() == nil; i++ {
		next = next.Add(pause())
		time.Sleep(time.Until(next))
		u := users[i]
		group.Go(func() error {
			o.expect(u.id)
			if err := host.LogUsage(going, pool, u.id, u.organization, latencyTokens); err != nil {
				return err
			}
			o.committed(u.id, time.Now())
			db.rows.Add(1)
			return nil
		})
	}
	err = group.Wait()
	reached := float64(len(users)) / time.Since(began).Seconds()
	m := o.close(seenWithin)
	m.Reached = reached
	return m, errors.Join(err, o.err)
}

// warm opens all connections of a pool.
func warm(ctx context.Context, pool *pgxpool.Pool, n int) error {
	var held []*pgxpool.Conn
	defer func() {
		for _, c := range held {
			c.Release()
		}
	}()
	for range n {
		c, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		held = append(held, c)
	}
	return nil
}
