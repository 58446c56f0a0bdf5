package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
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
counted yet, the bell, corrections that wait, the users nearest to their limits,
and this period's alerts by threshold and reason.

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
	cmd.Flags().IntVar(&users, "users", 10, "how many users to show (0 to 1000)")
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if every < 100*time.Millisecond {
			return usageError{fmt.Errorf("--every %s: must be at least 100ms", every)}
		}
		if users < 0 || users > 1000 {
			return usageError{fmt.Errorf("--users %d: must be from 0 to 1000", users)}
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
		case watch && *format == outputText && terminalOf(out) != nil:
			return watchStatus(ctx, terminalOf(out), look, every)
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

// status is the whole page.
func (v view) status(st store.Status, width int) []string {
	lines := []string{
		v.bold.Render(st.Database) + fmt.Sprintf(", PostgreSQL %d, %s", st.ServerVersion/10000, instant(st.Now)),
		"",
	}
	lines = append(lines, v.worker(st)...)
	lines = append(lines, "", fmt.Sprintf("%s of %s with a limit:", v.bold.Render("Nearest to their limits"), count(int64(st.Limited), "user")))
	lines = append(lines, v.users(st, width)...)
	lines = append(lines, "", v.bold.Render("Alerts of this period")+":")
	return append(lines, v.alerts(st)...)
}

// statusDocument is what --output json prints.
type statusDocument struct {
	Now           time.Time        `json:"now"`
	Database      string           `json:"database"`
	ServerVersion int              `json:"server_version"`
	Settings      *settingsInForce `json:"settings"`
	Leader        *leaderDocument  `json:"leader"`
	Waiting       int              `json:"waiting"`
	LastTick      *tickDocument    `json:"last_tick"`
	Uncounted     struct {
		Rows   int64      `json:"rows"`
		More   bool       `json:"more"`
		Oldest *time.Time `json:"oldest"`
	} `json:"uncounted"`
	Bell struct {
		Armed      bool       `json:"armed"`
		ArmedUntil *time.Time `json:"armed_until"`
		Muted      bool       `json:"muted"`
	} `json:"bell"`
	Corrections struct {
		Due      int64      `json:"due"`
		Oldest   *time.Time `json:"oldest"`
		Later    int64      `json:"later"`
		SetAside int64      `json:"set_aside"`
	} `json:"corrections"`
	LimitedUsers int                `json:"limited_users"`
	Users        []standingDocument `json:"users"`
	Alerts       []alertDocument    `json:"alerts"`
}

type settingsInForce struct {
	TimeZone   string  `json:"time_zone"`
	Thresholds []int32 `json:"thresholds"`
	BellForced bool    `json:"bell_forced"`
	Worker     string  `json:"worker"`
}

type leaderDocument struct {
	PID    int        `json:"pid"`
	Worker string     `json:"worker"`
	Since  *time.Time `json:"since"`
}

type tickDocument struct {
	ID        int64      `json:"id"`
	Kind      store.Kind `json:"kind"`
	Rows      int64      `json:"rows"`
	Users     int64      `json:"users"`
	Worker    string     `json:"worker"`
	StartedAt time.Time  `json:"started_at"`
}

type standingDocument struct {
	UserID      uuid.UUID `json:"user_id"`
	FullName    string    `json:"full_name"`
	TokensUsed  int64     `json:"tokens_used"`
	TokenLimit  int64     `json:"token_limit"`
	PercentUsed float64   `json:"percent_used"`
	PeriodStart time.Time `json:"period_start"`
	ResetsAt    time.Time `json:"resets_at"`
}

// alertDocument counts alerts; the reason is empty for those that were told.
type alertDocument struct {
	Threshold int32  `json:"threshold"`
	Told      bool   `json:"told"`
	Reason    string `json:"reason"`
	Count     int64  `json:"count"`
}

func newStatusDocument(st store.Status) statusDocument {
	d := statusDocument{
		Now: st.Now.UTC(), Database: st.Database, ServerVersion: st.ServerVersion, Waiting: st.Waiting,
		LimitedUsers: st.Limited, Users: []standingDocument{}, Alerts: []alertDocument{},
	}
	if s := st.Settings; s != nil {
		d.Settings = &settingsInForce{TimeZone: s.TimeZone, Thresholds: s.Thresholds, BellForced: s.BellForced, Worker: s.Worker}
	}
	if l := st.Leader; l != nil {
		d.Leader = &leaderDocument{PID: l.PID, Worker: l.Worker, Since: utc(l.Since)}
	}
	if t := st.LastTick; t != nil {
		d.LastTick = &tickDocument{t.ID, t.Kind, t.Rows, t.Users, t.Worker, t.StartedAt.UTC()}
	}
	d.Uncounted.Rows, d.Uncounted.More, d.Uncounted.Oldest = st.Uncounted.Rows, st.Uncounted.Rows == store.UncountedMost, utc(st.Uncounted.Oldest)
	d.Bell.Armed, d.Bell.ArmedUntil, d.Bell.Muted = st.Bell.Armed, utc(st.Bell.ArmedUntil), st.Bell.Muted
	c := st.Corrections
	d.Corrections.Due, d.Corrections.Oldest, d.Corrections.Later, d.Corrections.SetAside = c.Due, utc(c.Oldest), c.Later, c.SetAside
	for _, u := range st.Users {
		d.Users = append(d.Users, standingDocument{
			UserID: u.UserID, FullName: u.FullName, TokensUsed: u.TokensUsed, TokenLimit: u.TokenLimit,
			PercentUsed: float64(worker.PercentTenths(u.TokensUsed, u.TokenLimit)) / 10,
			PeriodStart: u.PeriodStart.UTC(), ResetsAt: u.PeriodEnd.UTC(),
		})
	}
	for _, a := range st.Alerts {
		d.Alerts = append(d.Alerts, alertDocument{Threshold: a.Threshold, Told: a.Reason == "", Reason: a.Reason, Count: a.Count})
	}
	return d
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
