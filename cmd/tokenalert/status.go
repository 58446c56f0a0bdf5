package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tokenalert/store"
	"tokenalert/worker"
)

func newStatus() *cobra.Command {
	var watch bool
	var every time.Duration
	var users int
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who leads, what is uncounted, and who is near their limit",
		Long: `Show, as of one moment: who leads and since when, the last tick, what has not been
counted yet, the bell, corrections that wait, deliveries that wait or failed, the
users nearest to their limits, and this period's alerts by threshold and reason.

It only reads, works on a standby too, and needs no more than what
tokenalert migrate grant ROLE gives.

Exit status: 0 shown, whatever it shows (tokenalert doctor judges); 1 failed.`,
		Example: `  tokenalert status
  tokenalert status --watch
  tokenalert status --output json | jq '.leader.worker, .uncounted.rows'`,
		Args: arguments(cobra.NoArgs),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until Ctrl-C")
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often, with --watch (at least 100ms)")
	cmd.Flags().IntVar(&users, "users", 10, "how many users to show (1 to 1000)")
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if every < 100*time.Millisecond {
			return usageError{fmt.Errorf("--every %s: must be at least 100ms", every)}
		}
		if users < 1 || users > 1000 {
			return usageError{fmt.Errorf("--users %d: must be from 1 to 1000", users)}
		}
		database, _, err := openDatabase("status")
		if err != nil {
			return err
		}
		defer database.Close()
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		out := cmd.OutOrStdout()
		look := func(ctx context.Context) (store.Status, error) { return lookAt(ctx, database, users) }
		switch {
		case watch && *format == outputText && pageOn(out) != nil:
			return watchStatus(ctx, pageOn(out), look, every)
		case watch:
			return repeatStatus(ctx, out, look, every, *format)
		}
		status, err := look(ctx)
		if err != nil {
			return err
		}
		return printStatus(out, status, *format)
	}
	return cmd
}

// lookAt asks for the status within the time that somebody waits for it.
func lookAt(ctx context.Context, database *store.Store, users int) (store.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := database.Installed(ctx); err != nil {
		return store.Status{}, err
	}
	return database.Status(ctx, users)
}

// repeatStatus prints it every so often, where there is no terminal to redraw.
func repeatStatus(ctx context.Context, out io.Writer, look func(context.Context) (store.Status, error), every time.Duration, format outputFormat) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		status, err := look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := printStatus(out, status, format); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func printStatus(out io.Writer, status store.Status, format outputFormat) error {
	if format == outputJSON {
		return printJSON(out, newStatusDocument(status))
	}
	_, err := fmt.Fprintln(out, strings.Join(newView(out).status(status, widthOf(out)), "\n"))
	return err
}

// widthOf is how many cells a line may have: those of the terminal, else enough.
func widthOf(out io.Writer) int {
	if file, ok := out.(*os.File); ok {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
			return max(width, 60)
		}
	}
	return 132
}

// statusDocument is what --output json prints.
type statusDocument struct {
	store.Status
	Users []standingDocument `json:"users"`
}

type standingDocument struct {
	store.Standing
	PercentUsed float64 `json:"percent_used"`
}

func newStatusDocument(st store.Status) statusDocument {
	d := statusDocument{Status: st, Users: []standingDocument{}}
	for _, u := range st.Users {
		d.Users = append(d.Users, standingDocument{u, float64(worker.PercentTenths(u.TokensUsed, u.TokenLimit)) / 10})
	}
	return d
}
