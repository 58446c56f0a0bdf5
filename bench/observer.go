package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// lookEvery is the pause between two looks.
const lookEvery = 500 * time.Microsecond

// An observer sees alerts as anybody would: it looks for the rows of those whom
// it expects, on a session of its own, again and again. It has nothing to do
// with how a competitor learns of usage.
type observer struct {
	conn *pgx.Conn
	stop context.CancelFunc
	done chan struct{}
	err  error // after done

	mu      sync.Mutex
	waiting map[uuid.UUID]time.Time // of whom; when their commit returned, zero: not yet
	early   map[uuid.UUID]bool      // seen before the commit had returned
	ms      []float64
	looks   []float64
}

func newObserver(ctx context.Context, url string) (*observer, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	// Its statement is planned while there are few alerts, and must not go on to
	// read all there are, at the cost of those who are looked at.
	if _, err := conn.Exec(ctx, "SET enable_seqscan = off"); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	ctx, stop := context.WithCancel(ctx)
	o := &observer{conn: conn, stop: stop, done: make(chan struct{}), waiting: map[uuid.UUID]time.Time{}, early: map[uuid.UUID]bool{}}
	go func() {
		defer close(o.done)
		if err := o.look(ctx); ctx.Err() == nil {
			o.err = err
		}
		_ = conn.Close(context.WithoutCancel(ctx)) // it has seen what it was for
	}()
	return o, nil
}

func (o *observer) expect(id uuid.UUID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting[id] = time.Time{}
}

func (o *observer) committed(id uuid.UUID, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.early[id] {
		o.ms = append(o.ms, 0)
		return
	}
	o.waiting[id] = at
}

func (o *observer) expected() [][16]byte { // which pgx writes as they are
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := make([][16]byte, 0, len(o.waiting))
	for id := range o.waiting {
		ids = append(ids, id)
	}
	return ids
}

// look looks while anybody is expected.
func (o *observer) look(ctx context.Context) error {
	var last time.Time // zero: nobody was expected
	for ctx.Err() == nil {
		if ids := o.expected(); len(ids) > 0 {
			rows, err := o.conn.Query(ctx, "SELECT DISTINCT user_id FROM token_limit_alerts WHERE user_id = ANY ($1)", ids)
			if err != nil {
				return err
			}
			seen, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
			if err != nil {
				return err
			}
			now := time.Now()
			o.saw(seen, now, last)
			last = now
		} else {
			last = time.Time{}
		}
		time.Sleep(lookEvery)
	}
	return nil
}

func (o *observer) saw(ids []uuid.UUID, now, last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		if at := o.waiting[id]; at.IsZero() {
			o.early[id] = true
		} else {
			o.ms = append(o.ms, milliseconds(now.Sub(at)))
		}
		delete(o.waiting, id)
	}
	if !last.IsZero() {
		o.looks = append(o.looks, milliseconds(now.Sub(last)))
	}
}

// close waits until all are seen, or for so long, and says what was seen.
func (o *observer) close(within time.Duration) latencyPlay {
	for began := time.Now(); time.Since(began) < within && len(o.expected()) > 0; {
		select {
		case <-o.done: // with an error
			began = time.Time{}
		case <-time.After(probeEvery):
		}
	}
	o.stop()
	<-o.done
	// A single look in a play has no distance to another.
	return latencyPlay{
		Milliseconds: o.ms, Unseen: len(o.waiting),
		LookP50: percentile(append(o.looks, 0), 0.5), LookP99: percentile(append(o.looks, 0), 0.99),
	}
}
