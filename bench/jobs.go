package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
)

// A builder is a competitor whose worker has to be built, installed or found
// first. It says the versions of what it is made of; missing: it cannot be had here.
type builder interface {
	build(ctx context.Context, b *bench) (versions map[string]string, err error)
}

// missing says why a competitor cannot be played here.
type missing struct{ reason string }

func (m missing) Error() string { return m.reason }

// build has the chosen competitors be built. Those that cannot be had are not
// played.
func (b *bench) build(ctx context.Context) error {
	b.versions, b.absent = map[string]string{}, map[string]string{}
	for _, e := range b.chosen() {
		c, ok := e.competitor.(builder)
		if !ok {
			continue
		}
		versions, err := c.build(ctx, b)
		if m, ok := errors.AsType[missing](err); ok {
			b.absent[e.key] = m.reason
			_, _ = fmt.Fprintf(b.progress, "SKIPPED %s: %s\n", e.key, m.reason)
			continue
		}
		if err != nil {
			return fmt.Errorf("build %s: %w", e.key, err)
		}
		maps.Copy(b.versions, versions)
	}
	return nil
}

// jobsMost has a job queue take some twenty seconds for a backlog.
const jobsMost = 20_000

// countEnv has the statement with which the worker of a job queue counts, so
// that all tell by the same SQL.
const countEnv = "BENCH_COUNT"

// installJobs has a job queue make its own tables, and then what we tell in and
// the trigger.
func (db *database) installJobs(ctx context.Context, migrate *exec.Cmd, own string) error {
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return db.tellable(ctx, "totals", own)
}

// worked waits until the jobs are done that have committed by now: those that
// are left, and not newer than the newest of them. The host goes on to write,
// so that at no time there may be none. Ids rise.
func (db *database) worked(ctx context.Context, left string) (bool, error) {
	jobs := "FROM (SELECT id " + left + ") AS jobs"
	return db.reached(ctx, "SELECT coalesce(max(id), 0) "+jobs, "SELECT NOT EXISTS (SELECT "+jobs+" WHERE id <= $1)")
}
