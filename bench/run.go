package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// A player plays the rounds of a run.
type player struct {
	*bench
	results *results
	began   time.Time
	done    int // of the steps
	steps   int
}

// run plays every round, and writes what came of it after each, and where it
// fails or is interrupted.
func run(ctx context.Context, o options) (*results, error) {
	scratch, err := os.MkdirTemp("", "tokenalert-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(scratch) }() // a temporary folder
	p := &player{began: time.Now()}
	p.say("building the workers and starting a private PostgreSQL", o)
	if p.bench, err = newBench(ctx, o, scratch); err != nil {
		return nil, err
	}
	defer p.close()
	if p.results, err = newResults(ctx, p.bench); err != nil {
		return nil, err
	}
	cost, err := p.newCost(ctx)
	if err != nil {
		return nil, err
	}
	parts, err := p.newParts(ctx)
	if err != nil {
		return nil, err
	}
	latency, err := p.newLatency(ctx)
	if err != nil {
		return nil, err
	}
	catchUp, err := p.newCatchUp(ctx)
	if err != nil {
		return nil, err
	}
	rest, err := p.newRest(ctx)
	if err != nil {
		return nil, err
	}
	growth, err := p.newGrowth(ctx)
	if err != nil {
		return nil, err
	}
	p.steps = o.form.Rounds*(cost.steps()+latency.steps()+catchUp.steps()) + parts.steps() + rest.steps() + growth.steps()
	for round := range o.form.Rounds {
		for _, cell := range []interface {
			play(ctx context.Context, round int) error
		}{cost, parts, latency, catchUp, rest, growth} {
			err := cell.play(ctx, round)
			p.results.Rounds, p.results.Took = round+1, time.Since(p.began)
			if err != nil { // hours may have gone before
				p.results.CutShort = true
				return nil, errors.Join(err, p.results.write(o.results))
			}
		}
		if err := p.results.write(o.results); err != nil {
			return nil, err
		}
	}
	return p.results, nil
}

func (p *player) say(line string, o options) {
	_, _ = fmt.Fprintf(o.progress, "%7s  %s\n", time.Since(p.began).Round(time.Second), line)
}

// step says what came of a step, and how far the run is.
func (p *player) step(format string, args ...any) {
	p.done++
	p.say(fmt.Sprintf("%3d of %d  ", p.done, p.steps)+fmt.Sprintf(format, args...), p.options)
}

// check waits until the database's competitor has done all, compares what it
// told with a count by plain SQL, and takes the database away.
func (p *player) check(ctx context.Context, db *database, cell, part string, round int) (verdict, error) {
	finished, err := db.finished(ctx)
	if err != nil {
		return verdict{}, fmt.Errorf("%s, %s: %w", cell, db.key, err)
	}
	var v verdict
	if !db.silent() {
		if v, err = audit(ctx, db.control, db.highest); err != nil {
			return v, fmt.Errorf("%s, %s: %w", cell, db.key, err)
		}
		v.Cell, v.Part, v.Round, v.Competitor, v.Unfinished = cell, part, round, db.key, !finished
		p.results.Verdicts = append(p.results.Verdicts, v)
		if !v.right() {
			p.say(fmt.Sprintf("%s, %s, %s: %s", cell, part, db.key, v), p.options)
		}
	}
	return v, db.drop(ctx)
}

// stopAll stops the workers that an error has left.
func stopAll(dbs []*database) error {
	var errs []error
	for _, db := range dbs {
		if db != nil { // it was not even made
			errs = append(errs, db.stop())
		}
	}
	return errors.Join(errs...)
}
