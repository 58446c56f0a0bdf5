package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/demo"
	"tokenalert/internal/privatepg"
	"tokenalert/store"
	"tokenalert/worker"
)

// catchUp bounds how long the worker may take to count what was written last.
const catchUp = 10 * time.Second

func newDemo() *cobra.Command {
	var d demonstration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it at work on a private PostgreSQL; needs no configuration",
		Long: `Start a private PostgreSQL, make the host's tables and users, log AI calls through
the host's own function, and run the same worker as tokenalert run on top. On a
terminal it is a live view (q ends it), elsewhere a line for each alert, with the
time since its usage committed. At the end every total and every alert is
compared with a count by plain SQL.

PostgreSQL is taken from this machine (14 or later), else downloaded once. It
listens on no network port, and is removed at the end, on Ctrl-C too.

Exit status: 0 everything was right; 1 it was not, or the demo could not run.`,
		Example: `  tokenalert demo
  tokenalert demo --for 5m --rate 500 --users 200
  tokenalert demo --lines`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.validate(); err != nil {
				return usageError{err}
			}
			for name := range pgVariables { // they are about another server
				if err := os.Unsetenv(name); err != nil {
					return err
				}
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return d.run(ctx, cmd.OutOrStdout())
		},
	}
	cmd.Flags().DurationVar(&d.duration, "for", 20*time.Second, "how long the users work; Ctrl-C ends it earlier")
	cmd.Flags().Float64Var(&d.rate, "rate", 50, "calls a second, of all users together (0.1 to 10000)")
	cmd.Flags().IntVar(&d.users, "users", 12, "number of users (1 to 10000)")
	cmd.Flags().BoolVar(&d.lines, "lines", false, "lines instead of the live view, on a terminal too")
	return cmd
}

// demonstration is one run of the demo.
type demonstration struct {
	duration time.Duration
	rate     float64
	users    int
	lines    bool
}

func (d demonstration) validate() error {
	var errs []error
	if d.duration <= 0 {
		errs = append(errs, fmt.Errorf("--for %s: must be above 0", d.duration))
	}
	if !(d.rate >= 0.1 && d.rate <= 10000) { // NaN is neither
		errs = append(errs, fmt.Errorf("--rate %g: must be from 0.1 to 10000", d.rate))
	}
	if d.users < 1 || d.users > 10000 {
		errs = append(errs, fmt.Errorf("--users %d: must be from 1 to 10000", d.users))
	}
	return errors.Join(errs...)
}

// tokens is what a call uses, so that on average a user ends at 1.2 times the
// limit.
func (d demonstration) tokens() int {
	calls := d.rate * d.duration.Seconds() / float64(d.users)
	return min(max(2, int(1.2*demo.Limit/calls)), 2*demo.Limit)
}

func (d demonstration) run(ctx context.Context, out io.Writer) (err error) {
	show := newShow(out, d)
	server, err := d.start(ctx, show)
	if s, ok := errors.AsType[signaled](context.Cause(ctx)); ok && err != nil {
		return fmt.Errorf("interrupted by %w before anything was to be seen", s)
	}
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), catchUp)
		defer cancel()
		err = errors.Join(err, server.Stop(stopping))
	}()
	hostURL := server.URLAs(demo.HostRole, demo.Database)
	platform, err := d.install(ctx, server, hostURL)
	if err != nil {
		return err
	}
	s, err := loadSettings([]string{
		databaseVar + "=" + server.URLAs(demo.WorkerRole, demo.Database),
		"TOKENALERT_HTTP_ADDRESS=off", "TOKENALERT_LOG_FORMAT=json", "TOKENALERT_WORKER_NAME=demo-worker",
	})
	if err != nil {
		return err
	}
	show.say("PostgreSQL %d, migrated; %d users with a limit of %d tokens; %g calls a second for %s", server.Version()/10000, d.users, demo.Limit, d.rate, d.duration)

	logs, logWriter := io.Pipe()
	log, err := worker.NewLogger(s.LogLevel, s.LogFormat, logWriter, worker.Pipe, nameOf(s))
	if err != nil {
		return err
	}
	working, stopWorker := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorker()
	var group errgroup.Group
	group.Go(func() error { return show.follow(logs, platform.Names) })
	group.Go(func() error {
		err := run(working, s, log)
		return errors.Join(err, logWriter.Close())
	})

	traffic, endTraffic := context.WithTimeout(ctx, d.duration)
	defer endTraffic()
	calls, err := show.during(traffic, s, platform, func(ctx context.Context) (int64, error) {
		return platform.Traffic(ctx, hostURL, d.rate, d.tokens())
	})
	if err == nil {
		err = audit(context.WithoutCancel(ctx), server.URL(demo.Database), s.Thresholds, calls, show.say)
	}
	stopWorker()
	err = errors.Join(err, group.Wait())
	show.summarize()
	if err == nil {
		show.say("verdict: every total and every alert is right")
	}
	return err
}

// start starts the private PostgreSQL.
func (d demonstration) start(ctx context.Context, show *show) (*privatepg.Server, error) {
	show.say("starting a private PostgreSQL …")
	return privatepg.Start(ctx, privatepg.Options{Settings: map[string]string{"track_commit_timestamp": "on"}})
}

// install makes the host's database and users, and tokenalert's schema.
func (d demonstration) install(ctx context.Context, server *privatepg.Server, hostURL string) (*demo.Platform, error) {
	if err := demo.CreateDatabase(ctx, server.URL("postgres")); err != nil {
		return nil, err
	}
	platform, err := demo.NewPlatform(ctx, hostURL, d.users)
	if err != nil {
		return nil, err
	}
	migrator, err := store.NewMigrator(hostURL)
	if err != nil {
		return nil, err
	}
	defer migrator.Close()
	if err := migrator.Up(ctx); err != nil {
		return nil, err
	}
	return platform, migrator.Grant(ctx, demo.WorkerRole)
}

// audit waits until the worker has counted and told everything, or for as long
// as that may take, and prints the comparison.
func audit(ctx context.Context, url string, thresholds []int, calls int64, say func(string, ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, 2*catchUp)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var a demo.Audit
	for began := time.Now(); ; {
		if a, err = demo.RunAudit(ctx, conn, thresholds); err != nil {
			return err
		}
		if a.Passed() || time.Since(began) > catchUp {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	say("\n%d calls, %d tokens, %d users, compared with a count by plain SQL:", calls, a.Tokens, a.Users)
	say("  totals that differ              %d of %d", a.WrongTotals, a.Users)
	say("  crossings without an alert      %d of %d", a.Missing, a.Expected)
	say("  crossings alerted twice         %d", a.Doubled)
	say("  alerts without a crossing       %d", a.Unexpected)
	say("  notifications without an alert,")
	say("  or told without a notification  %d of %d", a.Unmatched, a.Told)
	if !a.Passed() {
		return errors.New("verdict: WRONG, see above")
	}
	return nil
}

// line is what the demo reads of a line of the worker's log.
type line struct {
	Event     string    `json:"event"`
	Level     string    `json:"level"`
	Time      time.Time `json:"ts"`
	Msg       string    `json:"msg"`
	Error     string    `json:"error"`
	User      uuid.UUID `json:"user"`
	Threshold int       `json:"threshold"`
	Percent   float64   `json:"percent"`
	Used      int64     `json:"used"`
	Limit     int64     `json:"limit"`
	Reason    string    `json:"reason"`
	Latency   *float64  `json:"latency_ms"`
}

// follow reads the worker's log, as people do.
func (s *show) follow(logs io.Reader, names map[uuid.UUID]string) error {
	lines := bufio.NewScanner(logs)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("read the worker's log: %w", err)
		}
		switch name := names[l.User]; l.Event {
		case string(worker.EventAlertSent), string(worker.EventAlertSuppressed):
			s.alert(alert{at: l.Time, name: name, threshold: l.Threshold, used: l.Used, limit: l.Limit, percent: l.Percent, reason: l.Reason, latency: l.Latency})
		default:
			if l.Level == "warn" || l.Level == "error" {
				s.say("  %s: %s %s", l.Level, l.Msg, l.Error)
			}
		}
	}
	return lines.Err()
}
