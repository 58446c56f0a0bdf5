// Command faults is the fault laboratory: it plays random schedules of writers,
// corrections and faults against the tokenalert binary on private PostgreSQL
// servers, and has an oracle that shares no code with it look for alerts that
// are missing, doubled or wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"tokenalert/faults/line"
	"tokenalert/internal/module"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errWrong) { // which has been said
			_, _ = fmt.Fprintln(os.Stderr, "faults:", err)
		}
		os.Exit(1)
	}
}

// errWrong: what the command looked for is wrong.
var errWrong = errors.New("something is wrong")

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "faults",
		Short:         "Look for alerts that are missed or told twice, under faults",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.AddCommand(newRun(), newMutants(), newRecovery(), newCrowd(), newSoak())
	for _, cmd := range root.Commands() {
		cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return enter(cmd.Context()) }
	}
	return root
}

// enter goes on in a network namespace of our own, where that can be had. What
// a build needs must be there before: nothing is to be had from inside.
func enter(ctx context.Context) error {
	if !line.Inside() {
		if err := module.Build(ctx, os.DevNull); err != nil {
			return err
		}
	}
	if err := line.Enter(); err != nil {
		return fmt.Errorf("go on in a network namespace: %w", err)
	}
	if fault := line.NamespaceFault(); fault != "" {
		_, _ = fmt.Fprintln(os.Stderr, "SKIPPED the faults drop and drop_back:", fault)
	}
	return nil
}
