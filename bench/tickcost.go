package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"tokenalert/store"
)

// A tickCost is what can be said of any tick.
type tickCost struct {
	ms, cpu float64
	wal     int64
}

// tick counts what was written, and must find just that.
func (w *grower) tick(ctx context.Context) (tickCost, error) {
	before, err := w.walPosition(ctx)
	if err != nil {
		return tickCost{}, err
	}
	worked := onCPU(w.process)
	began := time.Now()
	result, err := w.store.Tick(ctx, w.request(store.Window), w.decide)
	took := time.Since(began)
	if err != nil {
		return tickCost{}, err
	}
	if result.Rows != int64(w.Rows) || len(result.Outcomes) != w.Crossings || result.More() {
		return tickCost{}, fmt.Errorf("a tick of %+v has counted %d rows and told %d users", w.setting, result.Rows, len(result.Outcomes))
	}
	worked = onCPU(w.process) - worked
	after, err := w.walPosition(ctx)
	return tickCost{milliseconds(took), milliseconds(worked), after - before}, err
}

func (w *grower) writeAndTick(ctx context.Context) (tickCost, error) {
	if err := w.write(ctx); err != nil {
		return tickCost{}, err
	}
	return w.tick(ctx)
}

// findServer finds the process that the ticks run in.
func (w *grower) findServer(ctx context.Context) error {
	return w.admin.QueryRow(ctx, "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'tokenalert tick'", w.name).Scan(&w.process)
}

// onCPU is how long a process has been on a CPU, which is steadier than how long
// it took where others want the CPU as well; 0: unknown.
func onCPU(process int) time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", process)) // there is none on other systems
	var worked time.Duration
	_, _ = fmt.Sscan(string(text), &worked) // nanoseconds, the first of three
	return worked
}

// buffersOfTick measures a tick whose session tells the statistics at its end. 0:
// PostgreSQL 14, which has nothing that makes the writer tell first.
func (w *grower) buffersOfTick(ctx context.Context) (int64, error) {
	if err := w.write(ctx); err != nil {
		return 0, err
	}
	_, err := w.writer.Exec(ctx, "SELECT pg_stat_force_next_flush()")
	if store.SQLState(err) == "42883" { // there is no such function
		_, err := w.tick(ctx)
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	before, err := w.buffersRead(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := w.tick(ctx); err != nil {
		return 0, err
	}
	var n int64
	err = w.await(ctx, readyWithin, func() (bool, error) { // the answer comes before the statistics
		n, err = w.buffersRead(ctx)
		n -= before
		return n > 0, err
	})
	return n, err
}

// buffersRead is how many buffers the sessions of the database have told of.
func (w *grower) buffersRead(ctx context.Context) (n int64, err error) {
	err = w.admin.QueryRow(ctx, "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = $1", w.name).Scan(&n)
	return n, err
}

// tellStatistics is when a session tells what it has done, after a transaction:
// when it has told nothing for a second (PGSTAT_MIN_INTERVAL in PostgreSQL's
// pgstat.c).
const tellStatistics = 1100 * time.Millisecond

// buffers measures how many buffers one tick of each reads. It comes first in a
// turn: the first tick sees what has ended since the last turn, and may be on a
// new session.
func buffers(ctx context.Context, group []*grower, plays map[*grower]*growthPlay) error {
	for range 2 { // the second has told what all before it did
		for _, w := range group {
			if _, err := w.writeAndTick(ctx); err != nil {
				return fmt.Errorf("%+v: %w", w.setting, err)
			}
		}
		if err := sleep(ctx, tellStatistics); err != nil {
			return err
		}
	}
	for _, w := range group {
		if err := w.findServer(ctx); err != nil {
			return err
		}
		n, err := w.buffersOfTick(ctx)
		if err != nil {
			return fmt.Errorf("%+v: buffers: %w", w.setting, err)
		}
		plays[w].Buffers = n
	}
	return nil
}
