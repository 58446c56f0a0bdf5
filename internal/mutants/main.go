// Command mutants puts each old behaviour back, one at a time, and fails if the
// test named after it still passes. What the old behaviours are is in
// mutants.go. Nothing in the tree is changed (package overlay).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"time"

	"tokenalert/internal/module"
	"tokenalert/internal/overlay"
)

// testWithin bounds the test of one mutant, which may wait for what never comes.
const testWithin = 3 * time.Minute

func main() {
	list := flag.Bool("list", false, "name the mutants and stop")
	only := flag.String("run", "", "run the mutant of this `name` alone")
	flag.Parse()
	if *list {
		for _, m := range mutants {
			fmt.Printf("%-24s %-48s %s\n", m.name, m.test, m.behaviour)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool { return only != "" && m.name != only })
	if len(chosen) == 0 {
		return fmt.Errorf("no mutant is named %q; -list names them", only)
	}
	root, err := module.Root(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	if only == "" {
		if err := everyTestHasItsMutant(ctx, root); err != nil {
			return err
		}
	}
	// Mutants are told from the tree by their tests, so those must pass on it.
	if output, err := goTest(ctx, root, testsOf(chosen)); err != nil {
		return fmt.Errorf("the tests fail without any mutant: %w\n%s", err, output)
	}
	var errs []error
	for _, m := range chosen {
		began := time.Now()
		err := m.dies(ctx, root, dir)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		verdict := "dies"
		if err != nil {
			verdict = "SURVIVES"
			errs = append(errs, fmt.Errorf("%s (%s): %w", m.name, m.behaviour, err))
		}
		fmt.Printf("%-8s %-24s %5.1fs\n", verdict, m.name, time.Since(began).Seconds())
	}
	return errors.Join(errs...)
}

// dies runs the mutant's test on the mutated tree. It returns nil if the test
// ran and failed.
func (m mutant) dies(ctx context.Context, root, dir string) error {
	dir, err := os.MkdirTemp(dir, m.name+"-")
	if err != nil {
		return err
	}
	file, err := m.overlay(root, dir)
	if err != nil {
		return err
	}
	output, err := goTest(ctx, root, []string{m.test}, "-overlay", file)
	switch {
	case err == nil:
		return fmt.Errorf("%s passes", m.test)
	case !strings.Contains(output, "--- FAIL: "+m.test+" "):
		// It did not compile, or something else came in between.
		return fmt.Errorf("%s does not run: %w\n%s", m.test, err, output)
	}
	return nil
}

// overlay writes what go test is to take in place of files of the tree.
func (m mutant) overlay(root, dir string) (file string, err error) {
	var edits []overlay.Edit
	for _, e := range m.edits {
		edits = append(edits, overlay.Edit{File: e.file, Old: e.old, New: e.new})
	}
	return overlay.Write(root, dir, edits)
}

// everyTestHasItsMutant compares the tests named after the design with the list.
func everyTestHasItsMutant(ctx context.Context, root string) error {
	output, err := goCommand(ctx, root, "test", "-list", "^TestDesign", testPackage)
	if err != nil {
		return fmt.Errorf("list the tests: %w\n%s", err, output)
	}
	tested := testsOf(mutants)
	var errs []error
	for line := range strings.Lines(output) {
		name := strings.TrimSpace(line)
		if strings.HasPrefix(name, "TestDesign") && !slices.Contains(tested, name) {
			errs = append(errs, fmt.Errorf("%s has no mutant", name))
		}
	}
	return errors.Join(errs...)
}

func testsOf(list []mutant) []string {
	var tests []string
	for _, m := range list {
		if !slices.Contains(tests, m.test) {
			tests = append(tests, m.test)
		}
	}
	return tests
}

func goTest(ctx context.Context, root string, tests []string, flags ...string) (string, error) {
	args := append([]string{"test", "-count=1", "-vet=off", "-timeout", testWithin.String()}, flags...)
	return goCommand(ctx, root, append(args, "-run", "^("+strings.Join(tests, "|")+")$", testPackage)...)
}

// goCommand interrupts what it started when ctx ends, so that tests stop their
// server.
func goCommand(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // no shell, and the arguments are of this file
	cmd.Dir = root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	output, err := cmd.CombinedOutput()
	return string(output), err
}
