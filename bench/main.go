// Command bench plays tokenalert beside the other ways to tell users of their
// limits, in one run on a private PostgreSQL: what an insert costs, how long an
// alert takes, how fast a backlog is counted, and what a worker costs at rest; and
// by itself, how the cost of its ticks grows. docs/performance.md explains what is
// measured and shows the figures.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tokenalert/internal/page"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := runWorker(ctx)
	if !isWorker() {
		err = command().ExecuteContext(ctx)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	form        form
	only        []string // cells; empty: all
	competitors []string // keys; empty: all
	results     string   // the folder of what is written
	binDir      string
	progress    io.Writer
	absent      map[string]string // keys of those that cannot be had here, and why
}

func command() *cobra.Command {
	o := options{progress: os.Stderr, binDir: os.Getenv("PGTEST_BIN")}
	var quick, full bool
	var rounds int
	var slice time.Duration
	var from, write, summary string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Play tokenalert beside other ways to tell users of their limits",
		Long: `Play every competitor in the same run, round by round, on a private PostgreSQL
with the host's tables, and check at the end of each that everybody was told.

Cells: ` + strings.Join(cellNames, ", ") + `. Competitors: ` + strings.Join(keys(), ", ") + `.

Writes <date>.json with all figures, <date>.md with the tables and an SVG plot
for each cell. By default it plays a subset, in about 20 minutes on two cores.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.form = subset
			switch {
			case quick && full:
				return fmt.Errorf("--quick or --full, not both")
			case quick:
				o.form = smoke
				if !cmd.Flags().Changed("results") {
					o.results = "dist/bench"
				}
			case full:
				o.form = everything
			}
			if rounds > 0 {
				o.form.Rounds = rounds
			}
			if slice > 0 {
				o.form.Slice = slice
			}
			if err := o.validate(); err != nil {
				return err
			}
			r, err := o.figures(cmd.Context(), from)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprint(cmd.OutOrStdout(), r.markdown(""))
			if summary != "" {
				if err := page.Replace(summary, "figures", r.summary()); err != nil {
					return err
				}
			}
			if write == "" {
				return nil
			}
			folder, err := filepath.Rel(filepath.Dir(write), o.results)
			if err != nil {
				return err
			}
			return page.Replace(write, "figures", r.markdown(folder+"/"))
		},
	}
	f := cmd.Flags()
	f.BoolVar(&quick, "quick", false, "a smoke test: see that everything works; the figures mean nothing")
	f.BoolVar(&full, "full", false, "all cells in full, which takes hours")
	f.IntVar(&rounds, "rounds", 0, "how often each competitor is played; 0: as the form has it")
	f.DurationVar(&slice, "slice", 0, "how long inserts are measured in each turn; 0: as the form has it")
	f.StringSliceVar(&o.only, "only", nil, "which cells; empty: all")
	f.StringSliceVar(&o.competitors, "competitor", nil, "which competitors, beside the one without a trigger; empty: all")
	f.StringVar(&o.results, "results", "bench/results", "the folder that results are written to")
	f.StringVar(&from, "from", "", "play nothing, and write anew what a run has kept in this JSON file")
	f.StringVar(&summary, "summary", "", "a Markdown file to write the most important figures into, between its markers")
	f.StringVar(&write, "write", "", "a Markdown file to write the tables into, between its markers")
	return cmd
}

// figures are those of a new run, or of one that was kept.
func (o options) figures(ctx context.Context, from string) (*results, error) {
	if from == "" {
		return run(ctx, o)
	}
	raw, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	var r results
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return &r, r.write(o.results)
}

func (o options) validate() error {
	for _, cell := range o.only {
		if !slices.Contains(cellNames, cell) {
			return fmt.Errorf("--only %s: there are the cells %s", cell, strings.Join(cellNames, ", "))
		}
	}
	for _, key := range o.competitors {
		if !slices.Contains(keys(), key) {
			return fmt.Errorf("--competitor %s: there are %s", key, strings.Join(keys(), ", "))
		}
	}
	return nil
}

func (o options) plays(cell string) bool { return len(o.only) == 0 || slices.Contains(o.only, cell) }
