package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokenalert/internal/module"
	"tokenalert/internal/overlay"
)

func newMutants() *cobra.Command {
	o := options{progress: io.Discard, binDir: os.Getenv("PGTEST_BIN"), untilOne: true}
	var only string
	var directory, write string
	cmd := &cobra.Command{
		Use:   "mutants",
		Short: "Show that the laboratory has teeth",
		Long: `Break what the promises rest on, one thing at a time, in a binary built for it,
and play schedules until the oracle finds something wrong. A mutant that gets
through all of them fails the command. Nothing in the tree is changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			chosen := slices.DeleteFunc(slices.Clone(mutations), func(m mutation) bool { return only != "" && m.name != only })
			if len(chosen) == 0 {
				return fmt.Errorf("no mutant is named %q", only)
			}
			var lines strings.Builder
			var errs []error
			for _, m := range chosen {
				line, err := m.hunt(cmd.Context(), o, filepath.Join(directory, m.name))
				if cmd.Context().Err() != nil {
					return cmd.Context().Err()
				}
				_, _ = fmt.Fprint(cmd.OutOrStdout(), line)
				lines.WriteString(line)
				errs = append(errs, err)
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			return writeInto(write, "mutants", lines.String())
		},
	}
	f := cmd.Flags()
	f.StringVar(&only, "run", "", "this mutant alone")
	f.IntVar(&o.schedules, "schedules", 150, "within how many schedules it must be found")
	f.Uint64Var(&o.seed, "seed", 1, "the first seed")
	f.IntVar(&o.lanes, "lanes", 3, "how many are played at once")
	f.StringVar(&directory, "directory", "dist/faults-mutants", "where binaries and traces are kept")
	f.StringVar(&write, "write", "", "a Markdown file to write the lines into, between its markers")
	return cmd
}

// overlay writes the mutated sources into dir.
func (m mutation) overlay(root, dir string) (string, error) {
	file, err := overlay.Write(root, dir, m.edits)
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.name, err)
	}
	return file, nil
}

// hunt plays schedules on the mutated binary until one fails.
func (m mutation) hunt(ctx context.Context, o options, directory string) (string, error) {
	o.directory = directory
	o.plays = m.plays
	l := &laboratory{options: o}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return "", err
	}
	root, err := module.Root(ctx)
	if err != nil {
		return "", err
	}
	mutated, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(mutated) }()
	file, err := m.overlay(root, mutated)
	if err != nil {
		return "", err
	}
	l.binary = filepath.Join(directory, "tokenalert")
	if err := module.Build(ctx, l.binary, "-overlay", file); err != nil {
		return "", fmt.Errorf("%s: %w", m.name, err)
	}
	began := time.Now()
	if err := l.prepare(ctx, true); err != nil {
		return "", err
	}
	if err := l.play(ctx); err != nil {
		return "", fmt.Errorf("%s: %w", m.name, err)
	}
	for _, r := range l.results {
		if !r.OK() {
			return fmt.Sprintf("found within %2d schedules, %3.0f s  %-20s %s: %s\n",
				len(l.results), time.Since(began).Seconds(), m.name, m.what, r.Kind()), nil
		}
	}
	return fmt.Sprintf("NOT FOUND in %d schedules  %-20s %s\n", len(l.results), m.name, m.what),
		fmt.Errorf("%s was not found within %d schedules", m.name, len(l.results))
}
