package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func newCrowd() *cobra.Command {
	var o options
	var users int
	var write string
	cmd := &cobra.Command{
		Use:   "crowd",
		Short: "Have a million users cross in one transaction",
		Long: `Have many users cross in one transaction, under the default settings, and others
by themselves meanwhile. Say how long they all waited, and check that each was
told once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := openLane(cmd.Context(), o.directory)
			if err != nil {
				return err
			}
			defer func() { _ = at.Close() }() // what it was for is done
			said := time.Now()
			r, err := at.Crowd(cmd.Context(), users, func(told int) {
				if time.Since(said) > 5*time.Second {
					said = time.Now()
					fmt.Fprintf(os.Stderr, "%s of %s told\n", thousands(told), thousands(users))
				}
			})
			if err != nil {
				return err
			}
			text := fmt.Sprintf(`%s users crossed in one transaction: the first was told after %s, all after %s
%s more crossed by themselves meanwhile, and waited: %s
%s ticks, the longest %s; %d users not told exactly once
`, thousands(r.Users), r.First.Round(time.Millisecond), r.All.Round(time.Millisecond), thousands(len(r.Others)), spread(r.Others),
				thousands(r.Ticks), r.LongestTick.Round(time.Millisecond), r.Wrong)
			_, _ = fmt.Fprint(cmd.OutOrStdout(), text)
			if err := writeInto(write, "crowd", text); err != nil {
				return err
			}
			if r.Wrong > 0 {
				return errWrong
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&users, "users", 1_000_000, "how many cross at once")
	f.StringVar(&o.directory, "directory", "dist/faults-crowd", "where logs are kept")
	f.StringVar(&write, "write", "", "a Markdown file to write what was seen into, between its markers")
	return cmd
}
