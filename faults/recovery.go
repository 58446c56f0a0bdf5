package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tokenalert/faults/lane"
	"tokenalert/faults/plan"
)

// leaseRecovery bounds a recovery that takes the lease.
const leaseRecovery = 15 * time.Second

// recoveries are the faults whose recovery is measured, and within what it must
// be.
var recoveries = []struct {
	kind  plan.FaultKind
	name  string
	bound time.Duration
	slow  bool // it takes the lease
}{
	{plan.Stop, "graceful hand-over (SIGTERM)", 500 * time.Millisecond, false},
	{plan.Kill, "killed (SIGKILL)", 2 * time.Second, false},
	{plan.Crash, "PostgreSQL restarted, once it accepts", 2 * time.Second, false},
	{plan.Freeze, "frozen (SIGSTOP)", leaseRecovery, true},
	{plan.Drop, "partitioned, both ways", leaseRecovery, true},
	{plan.DropBack, "partitioned, one way", leaseRecovery, true},
}

func newRecovery() *cobra.Command {
	var o options
	var times int
	var write string
	var only []string
	cmd := &cobra.Command{
		Use:   "recovery",
		Short: "Measure how long it takes from a fault to the next alert",
		Long: `Under the default settings have each fault happen to the leader, and measure how
long the users who crossed from then on waited at most: with a user crossing every
ten milliseconds, so that the leader is awake, and every one and a half seconds, so
that it sleeps. Faults that take the lease are repeated half as often.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := openLane(cmd.Context(), o.directory)
			if err != nil {
				return err
			}
			defer func() { _ = at.Close() }() // what it was for is done
			var b strings.Builder
			t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
			_, _ = fmt.Fprintln(t, "fault\tleader\truns\tminimum\tmedian\tmaximum\tbound\t\t")
			held := true
			for _, c := range recoveries {
				if len(only) > 0 && !slices.Contains(only, string(c.kind)) {
					continue
				}
				for _, leader := range []struct {
					is    string
					every time.Duration
				}{{"awake", lane.Awake}, {"asleep", lane.Asleep}} {
					if !slices.Contains(lane.Available(), c.kind) {
						_, _ = fmt.Fprintf(t, "%s\t%s\tSKIPPED\t\t\t\t\t\t\n", c.name, leader.is)
						continue
					}
					n := times
					if c.slow {
						n = (times + 1) / 2
					}
					took, err := at.Recover(cmd.Context(), c.kind, leader.every, n, func(d time.Duration) {
						fmt.Fprintf(os.Stderr, "%s, %s: %s\n", c.name, leader.is, d.Round(time.Millisecond))
					})
					if err != nil {
						return err
					}
					slices.Sort(took)
					verdict := "holds"
					if took[n-1] > c.bound {
						verdict, held = "DOES NOT HOLD", false
					}
					ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
					_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t\n", c.name, leader.is, n, ms(took[0]), ms(took[n/2]), ms(took[n-1]), c.bound, verdict)
				}
			}
			if err := t.Flush(); err != nil {
				return err
			}
			_, _ = fmt.Fprint(cmd.OutOrStdout(), b.String())
			if err := writeInto(write, "recovery times", b.String()); err != nil {
				return err
			}
			if !held {
				return errWrong
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&times, "times", 6, "how often each is measured")
	f.StringSliceVar(&only, "only", nil, "which faults: stop, kill, crash, freeze, drop, drop_back; empty: all")
	f.StringVar(&o.directory, "directory", "dist/faults-recovery", "where logs are kept")
	f.StringVar(&write, "write", "", "a Markdown file to write the table into, between its markers")
	return cmd
}
