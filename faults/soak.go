package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokenalert/faults/lane"
	"tokenalert/faults/plan"
)

func newSoak() *cobra.Command {
	var o options
	var length time.Duration
	var write, picture string
	cmd := &cobra.Command{
		Use:   "soak",
		Short: "Play one long schedule, and see that nothing grows",
		Long: fmt.Sprintf(`Play one schedule of %d rows a second with a fault every few seconds, on three
workers that live to its end, and sample what they and our tables take. The
oracle judges it like any other. It fails where something is wrong, or where
memory, goroutines, connections or our own tables have grown.`, plan.SoakRate),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.binary, err = buildInto(cmd.Context(), o.directory); err != nil {
				return err
			}
			s, err := soak(cmd.Context(), o, length)
			if err != nil {
				return err
			}
			text, grown := s.text(length)
			_, _ = fmt.Fprint(cmd.OutOrStdout(), text)
			if err := writeInto(write, "soak", text); err != nil {
				return err
			}
			if picture != "" {
				if err := os.WriteFile(picture, []byte(s.svg()), 0o644); err != nil {
					return err
				}
			}
			if grown || !s.result.OK() {
				return errWrong
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.DurationVar(&length, "length", 20*time.Minute, "how long to write")
	f.Uint64Var(&o.seed, "seed", 1, "the seed")
	f.StringVar(&o.directory, "directory", "dist/faults-soak", "where samples, logs and traces are kept")
	f.StringVar(&write, "write", "", "a Markdown file to write the summary into, between its markers")
	f.StringVar(&picture, "picture", "", "an SVG file to draw")
	return cmd
}

// sampleEvery is how often a soak is looked at.
const sampleEvery = 5 * time.Second

// A soaked schedule, and what was sampled.
type soaked struct {
	result  *lane.Result
	samples []lane.Sample
}

func soak(ctx context.Context, o options, length time.Duration) (*soaked, error) {
	file, err := os.Create(filepath.Join(o.directory, "samples.jsonl"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // each line was written or failed
	s := &soaked{}
	said := time.Now()
	at, err := lane.New(ctx, lane.Options{
		Binary: o.binary, Directory: o.directory, Keep: true, SampleEvery: sampleEvery,
		Sample: func(sample lane.Sample) {
			s.samples = append(s.samples, sample)
			if text, err := json.Marshal(sample); err == nil {
				_, _ = file.Write(append(text, '\n')) // a picture is drawn from memory
			}
			if time.Since(said) > 30*time.Second {
				said = time.Now()
				fmt.Fprintf(os.Stderr, "%s of %s, %s rows\n", sample.After.Round(time.Second), length, thousands(sample.Rows))
			}
		},
	})
	if err != nil {
		return nil, err
	}
	s.result, err = at.Play(ctx, plan.NewSoak(o.seed, length, lane.Available()))
	return s, errors.Join(err, at.Close())
}

// A course is one quantity over the time of a soak.
type course struct {
	name  string
	unit  string
	allow func(before, after float64) bool // of the medians of the second and the last quarter
	// values are those of each line that is drawn, by sample; 0 is not known.
	values [][]float64
}

func (s *soaked) courses() []course {
	workers := 0
	for _, sample := range s.samples {
		workers = max(workers, len(sample.Workers))
	}
	memory := course{name: "resident memory of each worker", unit: "MB", allow: func(b, a float64) bool { return a <= 1.2*b+5 }}
	goroutines := course{name: "goroutines of each worker", allow: func(b, a float64) bool { return a <= b+5 }}
	for n := range workers {
		var m, g []float64
		for _, sample := range s.samples {
			m = append(m, float64(sample.Workers[n].Resident)/1e6)
			g = append(g, float64(sample.Workers[n].Goroutines))
		}
		memory.values, goroutines.values = append(memory.values, m), append(goroutines.values, g)
	}
	connections := course{name: "connections of all workers", allow: func(b, a float64) bool { return a <= b+2 }}
	tables := course{name: "our tables but the chain", unit: "MB", allow: func(b, a float64) bool { return a <= 1.2*b+1 }}
	var c, t []float64
	for _, sample := range s.samples {
		c = append(c, float64(sample.Connections))
		size := 0
		for name, n := range sample.Tables {
			if name != "ticks" { // which keeps its history for as long as it is told to
				size += n
			}
		}
		t = append(t, float64(size)/1e6)
	}
	connections.values, tables.values = [][]float64{c}, [][]float64{t}
	return []course{memory, goroutines, connections, tables}
}

// text says what came of it, and whether something has grown.
func (s *soaked) text(length time.Duration) (string, bool) {
	var b strings.Builder
	r := s.result
	landed := 0
	for _, l := range r.Landed {
		landed += l.All
	}
	_, _ = fmt.Fprintf(&b, "%s, %s rows, %d faults of %d kinds: %s\n", length, thousands(r.Rows), landed, len(r.Landed), r.Kind())
	_, _ = fmt.Fprintf(&b, "%s alerts that must exist, %s that may besides; %s users told\n", thousands(r.Expected), thousands(r.Possible), thousands(r.Told))
	for _, fault := range r.Faults[:min(len(r.Faults), 10)] {
		_, _ = fmt.Fprintln(&b, fault)
	}
	grown := false
	for _, c := range s.courses() {
		for n, values := range c.values {
			q := len(values) / 4
			before, after := median(values[q:2*q]), median(values[3*q:])
			verdict := "has not grown"
			if !c.allow(before, after) {
				verdict, grown = "HAS GROWN", true
			}
			_, _ = fmt.Fprintf(&b, "%-34s %d: median of the second quarter %7.1f, of the last %7.1f %-2s %s\n", c.name, n+1, before, after, c.unit, verdict)
		}
	}
	if n := len(s.samples); n > 0 {
		last := s.samples[n-1]
		_, _ = fmt.Fprintf(&b, "the chain of ticks, which is kept for a day: %.1f MB\n", float64(last.Tables["ticks"])/1e6)
	}
	return b.String(), grown
}

func median(values []float64) float64 {
	known := slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return v == 0 })
	if len(known) == 0 {
		return 0
	}
	slices.Sort(known)
	return known[len(known)/2]
}
