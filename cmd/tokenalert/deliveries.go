package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"tokenalert/delivery"
	"tokenalert/store"
)

func newDeliveries() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deliveries",
		Short: "Show what is on its way by e-mail, webhook or into another database, and send it again",
		Long: `Show how far each alert has come that is delivered besides the notification, and
have those tried again that were given up.

Delivered ones can be listed for 7 days, those that failed for 30.`,
		Example: `  tokenalert deliveries list --state failed
  tokenalert deliveries retry 42`,
		Args: known,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeliveriesList(), newDeliveriesRetry())
	return cmd
}

// addChoice gives a command a flag that takes one of some words, or nothing.
func addChoice(cmd *cobra.Command, name, usage string, choices []string) *choice {
	c := &choice{of: choices}
	cmd.Flags().Var(c, name, usage)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)) // fails for a flag that is not there
	return c
}

type choice struct {
	value string
	of    []string
}

func (c *choice) String() string { return c.value }

// Type is what --help shows for the value.
func (c *choice) Type() string { return strings.Join(c.of, "|") }

// Set is called with what was typed.
func (c *choice) Set(value string) error {
	c.value = value
	return oneOf(value, c.of)
}

func newDeliveriesList() *cobra.Command {
	var limit int
	var user, organization string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries, the newest first",
		Long: `List deliveries, the newest first: waiting for a worker, running, retrying after a
failure, delivered, or failed for good; with the last error. An alert is about a
user, or about the budget of an organization (id); where an admin is told of it,
the admin is named too. No address is shown.`,
		Example: `  tokenalert deliveries list
  tokenalert deliveries list --state retrying --channel email
  tokenalert deliveries list --state failed -o json | jq length`,
		Args: arguments(cobra.NoArgs),
	}
	state := addChoice(cmd, "state", "only those that have come so far", store.DeliveryStates())
	channel := addChoice(cmd, "channel", "only those by this channel", delivery.Names())
	cmd.Flags().StringVar(&user, "user", "", "only those about this user (id)")
	cmd.Flags().StringVar(&organization, "organization", "", "only those about the budget of this organization (id)")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most; 0 is all")
	format := addOutputFlag(cmd)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := uuid.Parse(user); user != "" && err != nil {
			return usageError{fmt.Errorf("--user %q is not the id of a user (a UUID); see `%s --help`", user, cmd.CommandPath())}
		}
		if _, err := uuid.Parse(organization); organization != "" && err != nil {
			return usageError{fmt.Errorf("--organization %q is not the id of an organization (a UUID); see `%s --help`", organization, cmd.CommandPath())}
		}
		if limit < 0 {
			return usageError{fmt.Errorf("--limit %d must be 0 or more; see `%s --help`", limit, cmd.CommandPath())}
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter := store.DeliveryFilter{State: state.value, Channel: channel.value, Limit: limit}
		if id, err := uuid.Parse(user); err == nil {
			filter.User = &id
		}
		if id, err := uuid.Parse(organization); err == nil {
			filter.OfBudget = &id
		}
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		list, err := listDeliveries(ctx, filter)
		if err != nil {
			return err
		}
		if *format == outputJSON {
			return printJSON(cmd.OutOrStdout(), list)
		}
		return printDeliveries(cmd.OutOrStdout(), list, time.Now())
	}
	return cmd
}

func listDeliveries(ctx context.Context, filter store.DeliveryFilter) ([]store.DeliveryStatus, error) {
	var list []store.DeliveryStatus
	err := askDatabase(ctx, "deliveries", func(ctx context.Context, database *store.Store) error {
		var err error
		list, err = database.Deliveries(ctx, filter)
		return err
	})
	return list, err
}

func printDeliveries(w io.Writer, list []store.DeliveryStatus, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no such deliveries")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tCHANNEL\tSTATE\tATTEMPTS\tABOUT\tADMIN\tTHRESHOLD\tALERT\tSINCE\tNEXT\tLAST ERROR") //nolint:errcheck // told by Flush
	for _, d := range list {
		about, admin, threshold, alert, next := "(gone)", "", "", "(none)", ""
		switch {
		case d.UserID != nil:
			about = d.UserID.String()
		case d.OfBudget != nil:
			about = "budget of " + d.OfBudget.String()
		}
		if d.Threshold != nil {
			threshold = fmt.Sprintf("%d %%", *d.Threshold)
		}
		if d.Admin != nil {
			admin = d.Admin.String()
		}
		if d.AlertID != nil {
			alert = d.AlertID.String()
		}
		if d.NextAt != nil && d.State == store.DeliveryRetrying {
			next = "in " + span(max(d.NextAt.Sub(now), 0))
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, plain(d.Channel), d.State, d.Attempts, about, admin, threshold, //nolint:errcheck // as above
			alert, span(max(now.Sub(d.CreatedAt), 0)), next, plain(d.Error))
	}
	return table.Flush()
}

func newDeliveriesRetry() *cobra.Command {
	var failed bool
	cmd := &cobra.Command{
		Use:   "retry ID... | --failed",
		Short: "Try deliveries again at once",
		Long: `Have deliveries tried again at once, and for a day from now where they fail again:
by the ids that ` + "`tokenalert deliveries list`" + ` shows, or all that failed. One that
was delivered, or is running, is left as it is. Whoever got an alert before may
get it again, with the same id.

It writes to the queue: run it as the worker's role, or as the owner.

Exit status: 0 all are tried again, 1 some were not, 2 used wrongly.`,
		Example: `  tokenalert deliveries retry 42 43
  tokenalert deliveries retry --failed --channel email`,
	}
	channel := addChoice(cmd, "channel", "with --failed: only those by this channel", delivery.Names())
	cmd.Flags().BoolVar(&failed, "failed", false, "all that failed for good")
	cmd.Args = arguments(func(_ *cobra.Command, args []string) error {
		switch {
		case failed && len(args) > 0:
			return fmt.Errorf("ids and --failed are two ways to say which")
		case !failed && channel.value != "":
			return fmt.Errorf("--channel goes with --failed")
		case !failed && len(args) == 0:
			return fmt.Errorf("name deliveries by their ids, or say --failed")
		}
		for _, arg := range args {
			if _, err := strconv.ParseInt(arg, 10, 64); err != nil {
				return fmt.Errorf("%q is not the id of a delivery, which is a number", arg)
			}
		}
		return nil
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		var ids []int64
		for _, arg := range args {
			id, _ := strconv.ParseInt(arg, 10, 64) // as Args has seen
			ids = append(ids, id)
		}
		if failed {
			list, err := listDeliveries(ctx, store.DeliveryFilter{State: store.DeliveryFailed, Channel: channel.value})
			if err != nil {
				return err
			}
			for _, d := range slices.Backward(list) { // the oldest first
				ids = append(ids, d.ID)
			}
		}
		return retryDeliveries(ctx, cmd.OutOrStdout(), ids)
	}
	return cmd
}

func retryDeliveries(ctx context.Context, w io.Writer, ids []int64) error {
	database, err := openInstalled(ctx, "deliveries")
	if err != nil {
		return err
	}
	defer database.Close()
	queue, err := database.Queue()
	if err != nil {
		return err
	}
	retried := 0
	for _, id := range ids {
		is, err := queue.RetryDelivery(ctx, id)
		if err != nil {
			return err
		}
		if is {
			retried++
			continue
		}
		fmt.Fprintf(w, "%d is left as it is: there is none, or it is running, or was delivered\n", id) //nolint:errcheck // the next one tells
	}
	if _, err := fmt.Fprintf(w, "%s tried again\n", count(int64(retried), "delivery")); err != nil {
		return err
	}
	if retried < len(ids) {
		return exitStatus(1)
	}
	return nil
}
