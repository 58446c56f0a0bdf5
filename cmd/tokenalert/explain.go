package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"tokenalert/store"
	"tokenalert/worker"
)

func newExplain() *cobra.Command {
	var format *outputFormat
	cmd := &cobra.Command{
		Use:   "explain USER",
		Short: "Say why a user was told, or was not",
		Long: `Say in one sentence whether a user was told, and what comes next; then all that it
follows from, as of one moment: period and bounds, the total, the limit, what
became of each threshold and why, the alerts, the newest rows of usage with the
tick that counted each, and what waits.

USER is an id or an email address. The role that runs the worker may not read
addresses: name the user by id, or ask as the owner of users. Nothing is
changed, and no prompt or response is read.

Exit status: 0 explained, 1 no such user or no answer from the database, 2 used
wrongly.`,
		Example: `  tokenalert explain 3f0e8d52-6c5e-4b0b-9c56-0c2f0f6d1a77
  DATABASE_URL=postgres://owner@db.example.com/cms tokenalert explain ana@example.org
  tokenalert explain ana@example.org --output json | jq -r .answer`,
		Args:              arguments(oneUser),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			database, _, err := openDatabase("explain")
			if err != nil {
				return err
			}
			defer database.Close()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if err := database.Installed(ctx); err != nil {
				return err
			}
			account, err := database.Explain(ctx, args[0])
			if err != nil {
				return err
			}
			explained := explanation{worker.Explain(account), account}
			if *format == outputJSON {
				return printJSON(cmd.OutOrStdout(), explained)
			}
			return explained.print(cmd.OutOrStdout())
		},
	}
	format = addOutputFlag(cmd)
	return cmd
}

// oneUser accepts what can be an id or an email address.
func oneUser(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	if _, err := uuid.Parse(strings.TrimSpace(args[0])); err != nil && !strings.Contains(args[0], "@") {
		return fmt.Errorf("%q is neither the id of a user (a UUID) nor an email address", args[0])
	}
	return nil
}

// explanation is the answer and all that it follows from.
type explanation struct {
	worker.Explanation
	Account store.Account `json:"account"`
}
