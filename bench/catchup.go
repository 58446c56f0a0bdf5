package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
)

// A catchUpPlay is how one competitor dealt with a backlog.
type catchUpPlay struct {
	Round       int     `json:"round"`
	Competitor  string  `json:"competitor"`
	Backlog     backlog `json:"backlog"`
	Rows        int     `json:"rows"`    // that it was given of it
	Seconds     float64 `json:"seconds"` // from the start of the worker's process
	Rate        float64 `json:"rows_per_second"`
	PeakBytes   int64   `json:"peak_bytes"` // of the worker, resident; 0: unknown
	LongestTick float64 `json:"longest_tick_ms,omitempty"`
	Ticks       int     `json:"ticks,omitempty"`
	Lost        bool    `json:"lost,omitempty"` // some of it: the rate means nothing
}

// rowsPerTransaction of the backlog: a transaction of its own for each row
// would take most of the time.
const rowsPerTransaction = 1000

// loaders are the sessions that write it.
const loaders = 2

// writersRate is how many rows a second the host goes on to write meanwhile.
const writersRate = 100

type catchUp struct {
	*player
	templates []*template // for each backlog
}

func (p *player) newCatchUp(ctx context.Context) (*catchUp, error) {
	c := &catchUp{player: p}
	if !p.plays(cellCatchUp) {
		return c, nil
	}
	for i, b := range p.form.Backlogs {
		mean := b.Rows / b.Users * tokensPerCall / 2
		// One in ten crosses all thresholds, if all use the same.
		limit := func(i, _ int) int { return mean/2 + i%100*mean/20 }
		t, err := p.newTemplate(ctx, fmt.Sprintf("catchup%d", i), b.Users, 0, limit)
		if err != nil {
			return nil, err
		}
		c.templates = append(c.templates, t)
	}
	return c, nil
}

// behind are those who can fall behind: who have a worker.
func (c *catchUp) behind() []entry {
	var all []entry
	for _, e := range c.with(func(e entry) bool { return e.target > 0 }) {
		if e.ready() != "" {
			all = append(all, e)
		}
	}
	return all
}

func (c *catchUp) steps() int { return len(c.templates) * len(c.behind()) }

func (c *catchUp) play(ctx context.Context, round int) error {
	for i, t := range c.templates {
		b := c.form.Backlogs[i]
		for _, e := range rotated(c.behind(), round+i) {
			db, err := c.settled(ctx, t, e)
			if err == nil {
				err = c.playOne(ctx, db, b, round)
			}
			if err != nil {
				return errors.Join(fmt.Errorf("%s: %w", e.key, err), stopAll([]*database{db}))
			}
		}
	}
	return nil
}

func (c *catchUp) playOne(ctx context.Context, db *database, b backlog, round int) error {
	given := b.part(db.most)
	if err := c.load(ctx, db, given, uint64(round)); err != nil {
		return err
	}
	db.logTicks = true
	m := catchUpPlay{Round: round + 1, Competitor: db.key, Backlog: b, Rows: given.Rows}
	began := time.Now()
	goOn, cancel := context.WithCancel(ctx)
	defer cancel()
	var writer errgroup.Group
	writer.Go(func() error { return goOnWriting(goOn, db) })
	// Who asks the worker whether it is done waits until it can hear.
	err := db.start(ctx)
	if err == nil {
		_, err = db.finished(ctx)
	}
	took := time.Since(began)
	cancel()
	if err := errors.Join(err, writer.Wait()); err != nil {
		return err
	}
	m.Seconds, m.Rate, m.PeakBytes = took.Seconds(), float64(m.Rows)/took.Seconds(), db.peakBytes()
	if m.LongestTick, m.Ticks, err = longestTick(db.log); err != nil {
		return err
	}
	v, err := c.check(ctx, db, cellCatchUp, b.String(), round+1)
	if err != nil {
		return err
	}
	m.Lost = v.Lost > 0 || v.Unfinished
	c.results.CatchUp = append(c.results.CatchUp, m)
	c.step("%s, %s: %s rows in %.1f s, %.0f rows/s, %d MB", b, db.key, thousands(float64(m.Rows)), m.Seconds, m.Rate, m.PeakBytes/1e6)
	return nil
}

// goOnWriting logs calls of one user after the other, writersRate a second,
// while a backlog is counted.
func goOnWriting(ctx context.Context, db *database) error {
	conn, err := pgx.Connect(ctx, db.hostURL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // all has committed
	for i := 0; sleep(ctx, time.Second/writersRate) == nil; i++ {
		u := db.users[i%len(db.users)]
		// What was begun is finished: it is to be counted.
		if err := host.LogUsage(context.WithoutCancel(ctx), conn, u.id, u.organization, 1+rand.IntN(tokensPerCall)); err != nil {
			return err
		}
		db.rows.Add(1)
	}
	return nil
}

// load writes the backlog, past the worker, which is dead. Each session writes of
// its own share of the users: two jobs of one user wait for each other.
func (c *catchUp) load(ctx context.Context, db *database, b backlog, seed uint64) error {
	now := time.Now()
	group, loading := errgroup.WithContext(ctx)
	for k := range loaders {
		users := db.users[b.Users*k/loaders : b.Users*(k+1)/loaders]
		rows := b.Rows*(k+1)/loaders - b.Rows*k/loaders
		l := loader{db, users, now, rand.New(rand.NewPCG(seed, uint64(k)))}
		group.Go(func() error { return l.load(loading, rows, b.Law) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	// Statistics would come by themselves sooner or later, and differ by luck.
	_, err := db.control.Exec(ctx, "ANALYZE")
	return err
}

// A loader writes rows of some users.
type loader struct {
	db     *database
	users  []user
	at     time.Time
	chance *rand.Rand
}

func (l loader) load(ctx context.Context, rows int, law string) error {
	conn, err := pgx.Connect(ctx, l.db.hostURL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // all has committed, or the error says why not
	favoured := rand.NewZipf(l.chance, 1.1, 1, uint64(len(l.users)-1))
	for from := 0; from < rows; from += rowsPerTransaction {
		n := min(rowsPerTransaction, rows-from)
		err := logCalls(ctx, conn, n, func(i int) (user, int, time.Time) {
			who := (from + i) % len(l.users)
			if law == zipf {
				who = int(favoured.Uint64())
			}
			return l.users[who], 1 + l.chance.IntN(tokensPerCall), l.at
		})
		if err != nil {
			return err
		}
		l.db.rows.Add(int64(n))
	}
	return nil
}
