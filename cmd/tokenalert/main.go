// Command tokenalert tells users of a platform, once, at once and for certain,
// when their monthly AI tokens reach a threshold of their limit.
//
// Exit status: 0 done, 1 failed, 2 used wrongly, 128+n ended at once by signal n.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	_ "time/tzdata" // time zones, for an image that has none

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // root certificates, likewise
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:]))
}

// usageError is what the user typed wrongly.
type usageError struct{ error }

// exitStatus ends a command that has said all there is to say.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "tokenalert: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tokenalert",
		Short: "Tell users, once and at once, when their AI tokens reach a threshold of their limit",
		Long: `tokenalert watches ai_usage_logs in PostgreSQL and tells each user, once, at once
and for certain, when their monthly usage reaches 80, 90 or 100 % of their limit.

Try it:            tokenalert demo
Put it to work:    tokenalert migrate up              as the owner of the tables
                   tokenalert migrate grant ROLE      for the role that runs it
                   tokenalert run                     as that role

Exit status: 0 done, 1 failed, 2 used wrongly, 128+n ended at once by signal n.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; see `tokenalert --help`", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	})
	root.AddCommand(newRun(), newMigrate(), newReconcile(), newDemo(), newVersion())
	return root
}

// arguments turns what cobra says about arguments into a usage error.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
		}
		return nil
	}
}
