package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"tokenalert/store"
	"tokenalert/worker"
)

func newReconcile() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare every total with the rows, and have those counted anew that differ",
		Long: `Add up the rows of ai_usage_logs once more and compare them with the running
totals of everybody's current period, and with what is counted of organizations'
budgets: a second opinion, which the worker also takes once a day. It reads in
one transaction, holds up no tick and no insert, and may run beside a worker at
any time.

Totals differ where rows went past the triggers: a load with triggers switched
off, rows that were given the xact_id of another transaction, a total changed
by hand. Each difference is printed and its user queued to be counted anew;
whoever leads does so within moments, and tells whom it must. Users with a
correction already queued are left out. Of a budget a user's share is compared
with the rows, and their sum with all shares.

It shows its progress on standard error: a bar on a terminal, elsewhere log
lines, one in 5 seconds.

Exit status: 0 when all totals agree or those that differ were queued, 1 when it
failed or was interrupted, or nothing could be compared because a full count is
due (try again in a moment). With --dry-run 1 also when totals differ; the output,
with --output json the document, is then complete.`,
		Example: `  tokenalert reconcile
  tokenalert reconcile --dry-run
  tokenalert reconcile --output json | jq '.differences[].user_id'`,
		Args: arguments(cobra.NoArgs),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only compare: queue nothing, and exit with status 1 where totals differ")
	output := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		database, s, err := openDatabase("reconcile")
		if err != nil {
			return err
		}
		defer database.Close()
		r := &reconciliation{database: database, out: cmd.OutOrStdout(), format: *output}
		r.DryRun = dryRun
		if err := r.compare(ctx, cmd.ErrOrStderr(), s); err != nil {
			return r.interrupted(ctx, err)
		}
		if err := r.report(ctx); err != nil {
			return r.interrupted(ctx, err)
		}
		if r.FullCount || dryRun && len(r.Differences) > 0 {
			return exitStatus(1)
		}
		return nil
	}
	return cmd
}

const (
	// reconcileLogEvery is how often a log line tells how far it is.
	reconcileLogEvery = 5 * time.Second
	// queueAtOnce is how many differences are printed and then queued together.
	queueAtOnce = 1000
	// answerWithin bounds each short statement.
	answerWithin = 30 * time.Second
)

// reconciliation is one comparison and, exported, what is printed of it.
type reconciliation struct {
	database *store.Store
	out      io.Writer
	format   outputFormat

	Users       int64                  `json:"users"`
	Budgets     int64                  `json:"budgets"`
	Shares      int64                  `json:"shares"`
	LeftOut     int64                  `json:"left_out"`
	FullCount   bool                   `json:"full_count_pending"`
	Rows        int64                  `json:"rows"`
	Duration    float64                `json:"duration_ms"`
	DryRun      bool                   `json:"dry_run"`
	Queued      int                    `json:"queued"`
	Leader      bool                   `json:"leader"`
	Differences []reconciledDifference `json:"differences"`
}

// reconciledDifference is of a user's total; with an organization, of their share of
// its budget; with that alone, of the budget's sum.
type reconciledDifference struct {
	UserID         *uuid.UUID `json:"user_id"`
	OrganizationID *uuid.UUID `json:"organization_id"`
	PeriodStart    time.Time  `json:"period_start"`
	Counted        int64      `json:"counted"`
	Actual         int64      `json:"actual"`
	Difference     int64      `json:"difference"`

	found store.Difference
}

// compare shows its progress on stderr.
func (r *reconciliation) compare(ctx context.Context, stderr io.Writer, s settings) error {
	began := time.Now()
	if err := r.check(ctx); err != nil {
		return err
	}
	var found store.Reconciled
	var err error
	if terminalOf(stderr) != nil {
		bar := newProgressBar(stderr, "comparing")
		found, err = worker.Reconcile(ctx, r.database, bar.progress, func(err error) { bar.say(fmt.Sprintf("%v; once more", err)) })
		bar.end()
	} else {
		log, logErr := worker.NewLogger(s.LogLevel, s.LogFormat, stderr, worker.Pipe)
		if logErr != nil {
			return logErr
		}
		l := worker.NewReconcileLog(log, reconcileLogEvery)
		found, err = worker.Reconcile(ctx, r.database, l.Progress, l.Again)
	}
	if err != nil {
		return err
	}
	r.Users, r.LeftOut, r.FullCount, r.Rows = found.Users, found.LeftOut, found.FullCount, found.Rows
	r.Budgets, r.Shares = found.Budgets, found.Shares
	r.Duration = float64(time.Since(began).Round(time.Millisecond)) / float64(time.Millisecond)
	r.Differences = make([]reconciledDifference, 0, len(found.Differences))
	for _, d := range found.Differences {
		r.Differences = append(r.Differences, reconciledDifference{
			orNil(d.UserID), orNil(d.OrganizationID), d.PeriodStart.UTC(), d.Counted, d.Actual, d.Missing(), d,
		})
	}
	return nil
}

func orNil(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// check refuses, before anything is read, a database that nothing could be
// queued in.
func (r *reconciliation) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := r.database.Installed(ctx); err != nil || r.DryRun {
		return err
	}
	_, err := r.database.Check(ctx)
	return err
}

// report prints what was found and queues it. In text a difference is queued
// once it has been printed; the document of JSON comes last, and comes also
// where not all could be queued.
func (r *reconciliation) report(ctx context.Context) error {
	var err error
	for at := 0; at < len(r.Differences) && err == nil; at += queueAtOnce {
		some := r.Differences[at:min(at+queueAtOnce, len(r.Differences))]
		if err = r.printDifferences(some, at == 0); err == nil {
			err = r.queue(ctx, some)
		}
	}
	if err == nil {
		asking, cancel := context.WithTimeout(ctx, answerWithin)
		var leader *store.Leader
		leader, err = r.database.Leader(asking)
		r.Leader = leader != nil
		cancel()
	}
	if r.format == outputJSON {
		return errors.Join(printJSON(r.out, r), err)
	}
	if err == nil {
		_, err = fmt.Fprintln(r.out, r.summary())
	}
	return err
}

func (r *reconciliation) printDifferences(some []reconciledDifference, first bool) error {
	if r.format == outputJSON {
		return nil
	}
	// Whose budget it is, is said where some are of budgets.
	ofBudgets := slices.ContainsFunc(r.Differences, func(d reconciledDifference) bool { return d.OrganizationID != nil })
	whose := func(user, organization string) string {
		if !ofBudgets {
			return fmt.Sprintf("%-36s", user)
		}
		return fmt.Sprintf("%-36s  %-36s", user, organization)
	}
	if first {
		if _, err := fmt.Fprintf(r.out, "%s  %-20s  %14s  %14s  %14s\n", whose("USER", "BUDGET OF"), "PERIOD START", "COUNTED", "ACTUAL", "DIFFERENCE"); err != nil {
			return err
		}
	}
	for _, d := range some {
		user, organization := "all shares", "-"
		if d.UserID != nil {
			user = d.UserID.String()
		}
		if d.OrganizationID != nil {
			organization = d.OrganizationID.String()
		}
		if _, err := fmt.Fprintf(r.out, "%s  %-20s  %14d  %14d  %+14d\n", whose(user, organization), d.PeriodStart.Format(time.RFC3339), d.Counted, d.Actual, d.Difference); err != nil {
			return err
		}
	}
	return nil
}

// queue has them counted anew. What is under way is finished also after a
// signal, so that it is known what was queued.
func (r *reconciliation) queue(ctx context.Context, some []reconciledDifference) error {
	if r.DryRun {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var differences []store.Difference
	for _, d := range some {
		differences = append(differences, d.found)
	}
	queueing, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerWithin)
	defer cancel()
	if err := r.database.Recount(queueing, differences, store.CauseReconcile); err != nil {
		return err
	}
	r.Queued += len(differences)
	return nil
}

func (r *reconciliation) summary() string {
	if r.FullCount {
		return "nothing was compared: a full count is due, which corrects every total"
	}
	compared := count(r.Users, "user")
	if r.Budgets > 0 {
		compared += fmt.Sprintf(" and %s of %s", count(r.Shares, "share"), count(r.Budgets, "budget"))
	}
	s := fmt.Sprintf("compared %s with %s in %s: ", compared, count(r.Rows, "row"),
		time.Duration(r.Duration*float64(time.Millisecond)).Round(10*time.Millisecond))
	switch n := len(r.Differences); {
	case n == 0:
		s += "all totals agree"
	case r.DryRun:
		s += count(int64(n), "difference") + "; nothing was queued (--dry-run)"
	case r.Leader:
		s += count(int64(n), "difference") + ", queued; the worker that leads counts anew within moments"
	default:
		s += count(int64(n), "difference") + ", queued; nobody leads, so it is counted anew once `tokenalert run` is started"
	}
	if r.LeftOut > 0 {
		s += fmt.Sprintf("\nleft out %s whose correction waits to be counted", count(r.LeftOut, "user"))
	}
	return s
}

// interrupted says what a signal has left.
func (r *reconciliation) interrupted(ctx context.Context, err error) error {
	s, ok := errors.AsType[signaled](context.Cause(ctx))
	switch {
	case !ok:
		return err
	case r.Queued == 0:
		return fmt.Errorf("interrupted by %w; nothing was queued", s)
	}
	return fmt.Errorf("interrupted by %w; %d of %s queued", s, r.Queued, count(int64(len(r.Differences)), "difference"))
}
