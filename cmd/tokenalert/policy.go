package main

import (
	"context"
	"encoding/json"
	"errors"
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
	"tokenalert/worker"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Have an organization, or a user, told otherwise than the settings say",
		Long: `Have an organization, or a user, told otherwise than the settings say: at which
thresholds, in which zone and language, by which channels, not at all for a while,
and whether the admins of the organization are told as well. An organization may
have a budget: a limit for all its members together, of which its admins are told.

What a user's policy does not say, that of their organization does, and what
neither says, the settings do. A change is in force at the next tick, without a
restart; a threshold that it gains and that usage stands above already is
recorded (threshold_added), not told. Every change is kept, with the time and
the role that made it.

It takes the owner of the host's tables.`,
		Example: `  tokenalert policy set --organization $ORGANIZATION --thresholds 50,80,100
  tokenalert policy show --user $PERSON`,
		Args: known,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicySet(), newPolicyShow(), newPolicyList(), newPolicyRemove())
	return cmd
}

// policyOf are the flags that name whom a policy is of.
type policyOf struct{ user, organization string }

func addPolicyOf(cmd *cobra.Command) *policyOf {
	var of policyOf
	cmd.Flags().StringVar(&of.user, "user", "", "the user (id)")
	cmd.Flags().StringVar(&of.organization, "organization", "", "the organization (id)")
	return &of
}

func (of policyOf) parse(cmd *cobra.Command) (store.PolicyOf, error) {
	wrong := func(format string, args ...any) (store.PolicyOf, error) {
		return store.PolicyOf{}, usageError{fmt.Errorf(format+"; see `%s --help`", append(args, cmd.CommandPath())...)}
	}
	switch {
	case of.user != "" && of.organization != "":
		return wrong("--user and --organization: a policy is of one of them")
	case of.user == "" && of.organization == "":
		return wrong("name whom the policy is of: --user ID or --organization ID")
	}
	flag, value := "--user", of.user
	if value == "" {
		flag, value = "--organization", of.organization
	}
	id, err := uuid.Parse(value)
	switch {
	case err != nil:
		return wrong("%s %q is not an id (a UUID)", flag, value)
	case of.user != "":
		return store.PolicyOf{User: &id}, nil
	}
	return store.PolicyOf{Organization: &id}, nil
}

const inherit = "inherit"

// policyFlags are what `policy set` sets.
type policyFlags struct {
	thresholds, timeZone, language, channels, muteUntil, adminsFrom string
	budget, budgetResetDay, budgetTimeZone                          string
}

// change reads the flags that were given.
func (f policyFlags) change(cmd *cobra.Command, of store.PolicyOf, now time.Time) (store.PolicyChange, error) {
	var c store.PolicyChange
	var errs []error
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	if given("thresholds") {
		list, err := parseThresholds(f.thresholds)
		c.Thresholds, errs = &list, append(errs, err)
	}
	if given("time-zone") {
		zone := &f.timeZone
		if f.timeZone == inherit {
			zone = nil
		} else if !isZone(f.timeZone) {
			errs = append(errs, fmt.Errorf("--time-zone %q must be a zone of the IANA database, such as America/Santiago, or inherit", f.timeZone))
		}
		c.TimeZone = &zone
	}
	if given("language") {
		language := &f.language
		if f.language == inherit {
			language = nil
		} else if lang, ok := worker.ParseLanguage(f.language); !ok || string(lang) != f.language {
			errs = append(errs, fmt.Errorf("--language %q must be es, en, pt, or inherit", f.language))
		}
		c.Language = &language
	}
	if given("channels") {
		list, err := parseChannels(f.channels)
		c.Channels, errs = &list, append(errs, err)
	}
	if given("mute-until") {
		until, err := parseMute(f.muteUntil, now)
		c.MutedUntil, errs = &until, append(errs, err)
	}
	if given("admins-from") {
		from, err := parseAdminsFrom(f.adminsFrom)
		c.AdminsFrom, errs = &from, append(errs, err)
	}
	errs = append(errs, f.changeBudget(cmd, of, &c))
	if c == (store.PolicyChange{}) && errors.Join(errs...) == nil {
		errs = append(errs, errors.New("nothing to set: give --thresholds, --time-zone, --language, --channels, --mute-until, --admins-from or --budget"))
	}
	if err := errors.Join(errs...); err != nil {
		return c, usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
	}
	return c, nil
}

func isZone(name string) bool {
	_, err := time.LoadLocation(name)
	return err == nil && name != "" && name != "Local"
}

// changeBudget reads the flags of the budget that were given.
func (f policyFlags) changeBudget(cmd *cobra.Command, of store.PolicyOf, c *store.PolicyChange) error {
	var errs []error
	for _, flag := range []struct {
		name string
		read func()
	}{
		{"budget", func() {
			var budget *int64
			if f.budget != "none" {
				n, err := strconv.ParseInt(f.budget, 10, 64)
				if err != nil || n < 1 || n > mostBudget {
					errs = append(errs, fmt.Errorf("--budget %q must be a number of tokens from 1 to %d, or none", f.budget, mostBudget))
				}
				budget = &n
			}
			c.Budget = &budget
		}},
		{"budget-reset-day", func() {
			n, err := strconv.ParseInt(f.budgetResetDay, 10, 32)
			if err != nil || n < 1 || n > 31 {
				errs = append(errs, fmt.Errorf("--budget-reset-day %q must be a day of the month from 1 to 31", f.budgetResetDay))
			}
			c.BudgetResetDay = new(new(int32(n)))
		}},
		{"budget-time-zone", func() {
			if !isZone(f.budgetTimeZone) {
				errs = append(errs, fmt.Errorf("--budget-time-zone %q must be a zone of the IANA database, such as America/Santiago", f.budgetTimeZone))
			}
			c.BudgetTimeZone = new(&f.budgetTimeZone)
		}},
	} {
		if !cmd.Flags().Changed(flag.name) {
			continue
		}
		if of.User != nil {
			return fmt.Errorf("--%s is an organization's: name it by --organization; the limit of a user is in the host's tables", flag.name)
		}
		flag.read()
	}
	if f.budget == "none" && (c.BudgetResetDay != nil || c.BudgetTimeZone != nil) {
		errs = append(errs, errors.New("--budget none leaves nothing that begins on a day or in a zone"))
	}
	return errors.Join(errs...)
}

// mostBudget is what the database takes.
const mostBudget = 1_000_000_000_000_000

func parseThresholds(text string) ([]int32, error) {
	if text == inherit {
		return nil, nil
	}
	var list []int32
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(part), 10, 32)
		if err != nil || n < 1 || n > 1000 || slices.Contains(list, int32(n)) {
			return nil, fmt.Errorf("--thresholds %q must be percentages from 1 to 1000, each once, such as 50,80,100, or inherit", text)
		}
		list = append(list, int32(n))
	}
	if len(list) > 10 {
		return nil, fmt.Errorf("--thresholds %q must be 10 percentages at most", text)
	}
	slices.Sort(list)
	return list, nil
}

func parseChannels(text string) ([]string, error) {
	switch text {
	case inherit:
		return nil, nil
	case "none":
		return []string{}, nil
	}
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if !slices.Contains(delivery.Names(), part) || slices.Contains(list, part) {
			return nil, fmt.Errorf("--channels %q must be some of %s, each once, or none, or inherit", text, strings.Join(delivery.Names(), ","))
		}
		list = append(list, part)
	}
	return list, nil
}

func parseAdminsFrom(text string) (*int32, error) {
	switch text {
	case inherit:
		return nil, nil
	case "none":
		return new(int32), nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 || n > 1000 {
		return nil, fmt.Errorf("--admins-from %q must be a percentage from 1 to 1000, or none, or inherit", text)
	}
	return new(int32(n)), nil
}

// parseMute takes an instant, a date, a duration from now, or a word.
func parseMute(text string, now time.Time) (*time.Time, error) {
	switch text {
	case inherit:
		return nil, nil
	case "now": // heard again, though the organization is muted
		return &now, nil
	case "forever":
		return &store.MutedForever, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		var d time.Duration
		if d, err = time.ParseDuration(text); err == nil {
			at = now.Add(d)
		}
	}
	if err != nil || !at.After(now) || !at.Before(store.MutedForever) {
		return nil, fmt.Errorf("--mute-until %q must be an instant to come, such as 2030-01-31T08:00:00Z, a time from now, such as 72h, or forever, now, or inherit", text)
	}
	return &at, nil
}

func newPolicySet() *cobra.Command {
	var f policyFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "set (--user ID | --organization ID)",
		Short: "Change a policy",
		Long: `Change what a policy says; what is not named stays. Each takes inherit, after which
the policy says nothing of it:

  --thresholds  percentages of the limit, 1 to 1000, ten at most
  --time-zone   in which periods begin at midnight; the current one is counted anew
  --language    es, en or pt; an organization's is for users who have none
  --channels    by which alerts are delivered besides the notification, of those
                that are set up; none: the notification alone
  --mute-until  an instant, a time from now, forever, or now; until then
                crossings are recorded (muted) and nobody is told, then neither
  --admins-from the lowest threshold of which the admins of the organization are
                told as well; none: of none

Of an organization alone:

  --budget      tokens that its members may use in a period together, or none; its
                admins are told, at the thresholds of the organization, by its
                channels, and in each admin's language. What was used in the
                period before the budget was set counts
  --budget-reset-day, --budget-time-zone
                on which day and in which zone the period begins at midnight:
                unless named, the first, in the zone that counts for the
                organization when the budget is set

It says who is told by that at the next tick. --dry-run only says it.

Exit status: 0 changed (or, with --dry-run, said), 1 failed, 2 used wrongly.`,
		Example: `  tokenalert policy set --organization $ORGANIZATION --thresholds 50,80,100
  tokenalert policy set --user $PERSON --mute-until 72h
  tokenalert policy set --user $PERSON --thresholds 20,40 --dry-run
  tokenalert policy set --organization $ORGANIZATION --budget 5000000`,
		Args: arguments(cobra.NoArgs),
	}
	named := addPolicyOf(cmd)
	cmd.Flags().StringVar(&f.thresholds, "thresholds", "", "percentages, or inherit")
	cmd.Flags().StringVar(&f.timeZone, "time-zone", "", "a zone of the IANA database, or inherit")
	cmd.Flags().StringVar(&f.language, "language", "", "es, en, pt, or inherit")
	cmd.Flags().StringVar(&f.channels, "channels", "", "some of "+strings.Join(delivery.Names(), ",")+", or none, or inherit")
	cmd.Flags().StringVar(&f.muteUntil, "mute-until", "", "an instant, a time from now, forever, now, or inherit")
	cmd.Flags().StringVar(&f.adminsFrom, "admins-from", "", "a percentage, or none, or inherit")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say who would be told")
	cmd.Flags().StringVar(&f.budget, "budget", "", "tokens, or none")
	cmd.Flags().StringVar(&f.budgetResetDay, "budget-reset-day", "", "a day of the month, 1 to 31")
	cmd.Flags().StringVar(&f.budgetTimeZone, "budget-time-zone", "", "a zone of the IANA database")
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		of, err := named.parse(cmd)
		if err != nil {
			return err
		}
		change, err := f.change(cmd, of, time.Now())
		if err != nil {
			return err
		}
		return changePolicy(cmd, of, change, dryRun, *format)
	}
	return cmd
}

func newPolicyRemove() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "remove (--user ID | --organization ID)",
		Short: "Have a policy say nothing any more",
		Long: `Have a policy say nothing any more: what comes after it counts again. Its changes
are kept. It says who is told by that at the next tick.`,
		Example: `  tokenalert policy remove --user $PERSON
  tokenalert policy remove --organization $ORGANIZATION --dry-run`,
		Args: arguments(cobra.NoArgs),
	}
	named := addPolicyOf(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say who would be told")
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		of, err := named.parse(cmd)
		if err != nil {
			return err
		}
		return changePolicy(cmd, of, store.RemovePolicy(), dryRun, *format)
	}
	return cmd
}

// changePolicy takes as long as the rows of an organization take to be read, whose
// budget is new.
func changePolicy(cmd *cobra.Command, of store.PolicyOf, change store.PolicyChange, dryRun bool, format outputFormat) error {
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	database, err := openInstalled(ctx, "policy")
	if err != nil {
		return err
	}
	defer database.Close()
	c, err := database.ChangePolicy(ctx, of, change, dryRun)
	if err != nil {
		return err
	}
	changed := changedPolicy{DryRun: dryRun, Before: c.Before, After: c.After, Users: c.Users(), Alerts: foretold(c)}
	if format == outputJSON {
		return printJSON(cmd.OutOrStdout(), changed)
	}
	return changed.print(cmd.OutOrStdout())
}

// changedPolicy is what is printed of a change.
type changedPolicy struct {
	DryRun bool            `json:"dry_run"`
	Before store.Policy    `json:"before"`
	After  store.Policy    `json:"after"`
	Users  int             `json:"users"` // with a total in their current period
	Alerts []foretoldAlert `json:"alerts"`
}

// foretoldAlert is what the next tick does.
type foretoldAlert struct {
	User         *uuid.UUID `json:"user"`         // nil: the admins, of the budget of
	Organization *uuid.UUID `json:"organization"` // nil: a user
	Threshold    int32      `json:"threshold"`
	Told         bool       `json:"told"`
	Reason       string     `json:"reason"`
	Webhook      bool       `json:"webhook"` // there is no admin to tell; a webhook is, where one is set up
}

func foretold(c store.ChangedPolicy) []foretoldAlert {
	alerts := []foretoldAlert{}
	for _, d := range worker.Foretell(c) {
		for _, a := range d.Alerts {
			f := foretoldAlert{User: &d.UserID, Threshold: a.Threshold, Told: a.Reason == "", Reason: a.Reason}
			if d.UserID == uuid.Nil {
				f.User, f.Organization = nil, &d.OrganizationID
				f.Webhook = a.Reason == string(worker.ReasonNoAdmin) && slices.Contains(a.Channels, store.ChannelWebhook)
			}
			alerts = append(alerts, f)
		}
	}
	return alerts
}

func (c changedPolicy) print(w io.Writer) error {
	var b strings.Builder
	did, told := "changed", "is told"
	if c.DryRun {
		did, told = "would change", "would be told"
	}
	fmt.Fprintf(&b, "%s; %s with a total in this period\n", did, count(int64(c.Users), "user"))
	before, after := policyLines(c.Before), policyLines(c.After)
	for i, line := range after {
		if line == before[i] {
			fmt.Fprintf(&b, "  %s\n", line)
		} else {
			fmt.Fprintf(&b, "  %s  (was %s)\n", line, strings.TrimSpace(before[i][len("mute until"):]))
		}
	}
	for _, a := range c.Alerts {
		switch {
		case a.User == nil && a.Told:
			fmt.Fprintf(&b, "the admins of %s %s of %d %% of the budget%s\n", a.Organization, strings.Replace(told, "is ", "are ", 1), a.Threshold, c.whenBudget())
		case a.Webhook:
			fmt.Fprintf(&b, "no admin %s of %d %% of the budget: %s has none who is not muted; a webhook, where one is set up, %s%s\n", told, a.Threshold, a.Organization, told, c.whenBudget())
		case a.User == nil:
			fmt.Fprintf(&b, "nobody is told of %d %% of the budget: %s\n", a.Threshold, worker.Reason(a.Reason).Words())
		case a.Told:
			fmt.Fprintf(&b, "%s %s of %d %% at the next tick\n", a.User, told, a.Threshold)
		default:
			fmt.Fprintf(&b, "%s is not told of %d %%: %s\n", a.User, a.Threshold, worker.Reason(a.Reason).Words())
		}
	}
	if len(c.Alerts) == 0 {
		fmt.Fprintf(&b, "nobody %s by that\n", told)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// whenBudget is when the admins are told.
func (c changedPolicy) whenBudget() string {
	if c.Before.SameBudgetPeriods(c.After) {
		return " at the next tick"
	}
	return " once what was used is counted"
}

// policyLines are what a policy says, one line for each of its columns.
func policyLines(p store.Policy) []string {
	or := func(said bool, text string) string {
		if said {
			return text
		}
		return inherit
	}
	language, muted, zone := "", "", ""
	if p.TimeZone != nil {
		zone = *p.TimeZone
	}
	if p.Language != nil {
		language = *p.Language
	}
	if p.MutedUntil != nil {
		muted = instant(*p.MutedUntil)
		if p.MutedUntil.Equal(store.MutedForever) {
			muted = "forever"
		}
	}
	admins := "none"
	if p.AdminsFrom != nil && *p.AdminsFrom > 0 {
		admins = fmt.Sprintf("from %d %%", *p.AdminsFrom)
	}
	channels := strings.Join(p.Channels, ",")
	if channels == "" {
		channels = "none"
	}
	budget := "none"
	if p.Budget != nil {
		budget = fmt.Sprintf("%s from day %d, %s", count(*p.Budget, "token"), *p.BudgetResetDay, *p.BudgetTimeZone)
	}
	return []string{
		"thresholds " + or(p.Thresholds != nil, percents(p.Thresholds)),
		"time zone  " + or(p.TimeZone != nil, zone),
		"language   " + or(p.Language != nil, language),
		"channels   " + or(p.Channels != nil, channels),
		"mute until " + or(p.MutedUntil != nil, muted),
		"admins     " + or(p.AdminsFrom != nil, admins),
		"budget     " + budget,
	}
}

func newPolicyShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show (--user ID | --organization ID)",
		Short: "Show what counts for a user or an organization, and every change",
		Long: `Show what counts for a user, or for those in an organization who have no policy of
their own, where each of it comes from, and every change with the time and the
role that made it.`,
		Example: `  tokenalert policy show --user $PERSON
  tokenalert policy show --organization $ORGANIZATION --output json | jq .changes`,
		Args: arguments(cobra.NoArgs),
	}
	named := addPolicyOf(cmd)
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		of, err := named.parse(cmd)
		if err != nil {
			return err
		}
		return withDatabase(cmd, "policy", func(ctx context.Context, database *store.Store) error {
			f, err := database.PolicyInForce(ctx, of)
			if err != nil {
				return err
			}
			if *format == outputJSON {
				return printJSON(cmd.OutOrStdout(), f)
			}
			return printPolicyInForce(cmd.OutOrStdout(), f)
		})
	}
	return cmd
}

func printPolicyInForce(w io.Writer, f store.PolicyInForce) error {
	var b strings.Builder
	blank := policyLines(store.Policy{})
	lines := slices.Clone(blank)
	from := make([]string, len(lines))
	for _, level := range []struct {
		policy *store.Policy
		name   string
	}{{f.Organization, "of the organization"}, {f.User, "of the user"}} {
		if level.policy == nil {
			continue
		}
		for i, line := range policyLines(*level.policy) {
			if line != blank[i] {
				lines[i], from[i] = line, level.name
			}
		}
	}
	if from[0] == "" && f.Settings != nil {
		lines[0] = "thresholds " + percents(f.Settings.Thresholds)
	}
	for i, line := range lines {
		origin := from[i]
		if origin == "" && i == len(lines)-1 {
			continue // no budget
		}
		if origin == "" {
			line, origin = strings.Replace(line, inherit, "-", 1), "by the settings"
		}
		fmt.Fprintf(&b, "%-40s %s\n", line, origin)
	}
	if u := f.Budget; u != nil {
		fmt.Fprintf(&b, "used of the budget: %s, %s, since %s; resets %s", count(u.TokensUsed, "token"),
			percentUsed(u.TokensUsed, u.TokenLimit), instant(u.PeriodStart), instant(u.ResetsAt))
		if !u.Counted {
			b.WriteString("; what was used before it was set is being counted")
		}
		b.WriteByte('\n')
	}
	for _, c := range f.Changes {
		before, _ := json.Marshal(c.Before) // they came as JSON
		after, _ := json.Marshal(c.After)
		fmt.Fprintf(&b, "%s by %s: %s -> %s\n", instant(c.ChangedAt), plain(c.Role), plain(string(before)), plain(string(after)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newPolicyList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the policies",
		Long:  `List the policies that say something, those of organizations first.`,
		Example: `  tokenalert policy list
  tokenalert policy list --output json | jq 'map(select(.muted_until))'`,
		Args: arguments(cobra.NoArgs),
	}
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withDatabase(cmd, "policy", func(ctx context.Context, database *store.Store) error {
			list, err := database.Policies(ctx)
			if err != nil {
				return err
			}
			if *format == outputJSON {
				return printJSON(cmd.OutOrStdout(), append([]store.Policy{}, list...))
			}
			if len(list) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no policies: the settings count for everybody")
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "OF\tTHRESHOLDS\tTIME ZONE\tLANGUAGE\tCHANNELS\tMUTE UNTIL\tADMINS\tBUDGET\tCHANGED") //nolint:errcheck // told by Flush
			for _, p := range list {
				of := store.PolicyOf{Organization: p.OrganizationID, User: p.UserID}
				row := []string{of.String()}
				for _, line := range policyLines(p) {
					row = append(row, strings.TrimSpace(line[len("mute until"):]))
				}
				fmt.Fprintln(table, strings.Join(append(row, instant(p.ChangedAt)), "\t")) //nolint:errcheck // as above
			}
			return table.Flush()
		})
	}
	return cmd
}
