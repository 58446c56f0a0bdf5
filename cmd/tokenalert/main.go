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
	"strings"
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
	fmt.Fprintln(os.Stderr, sayError(err))
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// sayError is an error as a person reads it. It may quote what the server said,
// and with it what anybody has put into the database.
func sayError(err error) string { return "tokenalert: " + plainLines(err.Error()) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tokenalert",
		Short: "Tell users, once and at once, when their AI tokens reach a threshold of their limit",
		Long: `tokenalert watches ai_usage_logs in PostgreSQL and tells each user, once, at once
and for certain, when their monthly usage reaches 80, 90 or 100 % of their limit.

All commands but demo and preview work on the database that DATABASE_URL (or the
PG* variables) names; tokenalert run --help lists the settings.

Exit status: 0 done, 1 failed, 2 used wrongly, 128+n ended at once by signal n.
doctor has its own: see its help.`,
		Example: `  tokenalert demo
  tokenalert migrate up                    # as the owner of the tables
  tokenalert migrate grant tokenalert      # for the role that runs it
  tokenalert run                           # as that role`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          known,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	})
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Try it, and put it to work:", []*cobra.Command{newDemo(), newMigrate(), newRun()}},
		{"See what it does:", []*cobra.Command{newStatus(), newExplain()}},
		{"Whom it tells, and how:", []*cobra.Command{newPolicy(), newDeliveries(), newPreview()}},
		{"When something may be wrong:", []*cobra.Command{newDoctor(), newReconcile()}},
		{"About this program:", []*cobra.Command{newVersion()}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title})
		for _, command := range group.commands {
			command.GroupID = group.title
			root.AddCommand(command)
		}
		root.SetHelpCommandGroupID(group.title) // the last
		root.SetCompletionCommandGroupID(group.title)
	}
	return root
}

// known refuses what is no subcommand of cmd, with those that are near to it.
func known(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	near := ""
	cmd.SuggestionsMinimumDistance = 2
	if suggestions := cmd.SuggestionsFor(args[0]); len(suggestions) > 0 {
		near = ", did you mean " + strings.Join(suggestions, " or ") + "?"
	}
	return usageError{fmt.Errorf("unknown command %q%s; see `%s --help`", args[0], near, cmd.CommandPath())}
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
