package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tokenalert/store"
)

func newMigrate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the host's database to tokenalert's schema, and back",
		Long: `Change the host's database, as the role that owns ai_usage_logs and users, over a
direct connection: TOKENALERT_LISTEN_URL where it is set, else DATABASE_URL or
the PG* variables.`,
		Example: `  tokenalert migrate up
  tokenalert migrate grant tokenalert`,
		Args: known,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newMigrateUp(), newMigrateDown(), newMigrateStatus(), newMigrateGrant())
	return cmd
}

func newMigrator(cmd *cobra.Command) (*store.Migrator, error) {
	s, err := loadSettings(os.Environ())
	if err != nil {
		return nil, err
	}
	m, err := store.NewMigrator(s.listenURL)
	if err != nil {
		return nil, err
	}
	m.Progress = func(sentence string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), plainLines(sentence)) }
	return m, nil
}

func newMigrateUp() *cobra.Command {
	var allowPublication bool
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Install or update the schema, and repair what is broken",
		Long: `Install or update the schema. The host goes on meanwhile: no table is rewritten,
the index is built concurrently, and each short exclusive lock is given up after
200 ms and tried again. The host's own alert trigger is taken over last, in one
transaction, so that at no moment both alert.

Run again, it changes nothing but what is broken: privileges lost in a restore,
an invalid index, a chain of ticks from another cluster.`,
		Example: `  DATABASE_URL=postgres://owner@db.example.com/cms tokenalert migrate up`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := newMigrator(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			m.AllowPublication, m.LockPatience = allowPublication, patience
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if err := m.Up(ctx); err != nil {
				return interrupted(ctx, err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the schema is up to date")
			return err
		},
	}
	cmd.Flags().BoolVar(&allowPublication, "allow-publication", false, "go on although ai_usage_logs is published: its subscribers have the column xact_id")
	cmd.Flags().DurationVar(&patience, "lock-patience", 10*time.Minute, "how long to try again while a lock is not to be had, and to wait for another migration")
	return cmd
}

func newMigrateDown() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Give the host back what it had; the history is kept in tokenalert_archive",
		Example: `  tokenalert migrate down
  tokenalert migrate down --yes`,
		Long: `Remove the schema, the column, the triggers. The host gets back its own alert
trigger and, in its own form, the newest alert row for each user and threshold.
Our history moves to the schema tokenalert_archive, from which a later
migrate up takes it in again.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				if err := confirm(cmd, "This removes tokenalert from the database; nobody is told any more. Type yes to go on: "); err != nil {
					return err
				}
			}
			m, err := newMigrator(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return interrupted(ctx, m.Down(ctx))
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// interrupted says what a signal in the middle of a migration has left.
func interrupted(ctx context.Context, err error) error {
	if s, ok := errors.AsType[signaled](context.Cause(ctx)); ok && err != nil {
		return fmt.Errorf("interrupted by %w; each step is done or undone whole, run the same command again to go on", s)
	}
	return err
}

// confirm asks on a terminal, and refuses where there is none.
func confirm(cmd *cobra.Command, question string) error {
	if in, ok := cmd.InOrStdin().(*os.File); ok && !term.IsTerminal(int(in.Fd())) {
		return usageError{errors.New("there is no terminal to ask on; pass --yes")}
	}
	_, _ = fmt.Fprint(cmd.OutOrStdout(), question)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

func newMigrateStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the migrations and when each was applied",
		Long: `List the migrations that this binary knows, in their order, and when each was
applied to the database. It changes nothing.`,
		Example: `  tokenalert migrate status`,
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := newMigrator(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			steps, err := m.Status(cmd.Context())
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, s := range steps {
				applied := "pending"
				if !s.AppliedAt.IsZero() {
					applied = s.AppliedAt.UTC().Format(time.RFC3339)
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\n", s.Name, applied) // Flush reports it
			}
			return table.Flush()
		},
	}
}

func newMigrateGrant() *cobra.Command {
	var read bool
	cmd := &cobra.Command{
		Use:   "grant ROLE",
		Short: "Give a role exactly what `tokenalert run` needs, or what reads the views",
		Long: `Give an existing role what a tick needs and no more. It can read neither prompt
nor response of ai_usage_logs, and change nothing of the host's but
token_limit_alerts and notifications. migrate up gives it again where a restore
has lost it.

With --read, give it instead what reads usage, budgets and alerts, for an admin
page: the views (docs/reporting.md), and no table.`,
		Example: `  psql -c "CREATE ROLE tokenalert LOGIN PASSWORD '…'"
  tokenalert migrate grant tokenalert
  tokenalert migrate grant --read admin_page`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := newMigrator(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			give, can := m.Grant, "run tokenalert"
			if read {
				give, can = m.GrantRead, "read usage, budgets and alerts"
			}
			if err := give(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the role %s can %s\n", args[0], can)
			return err
		},
	}
	cmd.Flags().BoolVar(&read, "read", false, "what reads the views of usage, budgets and alerts, in place of what runs")
	return cmd
}
