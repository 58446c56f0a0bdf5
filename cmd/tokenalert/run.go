package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/riverqueue/river"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"tokenalert/delivery"
	"tokenalert/store"
	"tokenalert/worker"
)

// healthBounds are what the probes bear: a loop that does not move, a database that
// does not answer, a leader that does not tick. A leader that sleeps hears from the
// database with each ping, and looks with each renewal of the bell; a follower hears
// from it with each attempt to lead.
func healthBounds(c worker.Config) worker.HealthBounds {
	return worker.HealthBounds{Live: 90 * time.Second, Answer: max(10*time.Second, 3*c.LeadPing, 2*c.LeadRetry), Tick: max(30*time.Second, 2*c.BellRenewal)}
}

func newRun() *cobra.Command {
	var printConfig bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the worker: follow, lead, count, tell and deliver",
		Long: `Run the worker until SIGTERM, SIGINT or SIGHUP. Any number may run; one leads,
the others wait. It needs the schema (tokenalert migrate up) and a role that was
given what it needs (tokenalert migrate grant ROLE).

Whoever is told gets a notification in this database. Each channel that is set up
delivers the alert besides, at least once, tried again for a day; all that run do
that, the leader or not:

  notification  TOKENALERT_NOTIFICATIONS_URL: a copy of the notification there
  email         TOKENALERT_EMAIL=on: by an organization's own mail server, or else
                that in TOKENALERT_SMTP_URL, from TOKENALERT_EMAIL_FROM
  webhook       TOKENALERT_WEBHOOK_URL, signed with TOKENALERT_WEBHOOK_SECRET

tokenalert test-send tries one of them, tokenalert deliveries shows what became of
each alert.

The first signal stops it gracefully: the tick is finished or rolled back, the
bell silenced, the lead released, and what is being handed over is waited for. A
second signal ends it at once.

Settings come from the environment:

` + settingsHelp(),
		Example: `  DATABASE_URL=postgres://tokenalert@db.example.com/cms tokenalert run
  tokenalert run --print-config`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := loadWords(os.Environ())
			if printConfig {
				return errors.Join(s.print(cmd.OutOrStdout()), err)
			}
			if err != nil {
				return err
			}
			log, err := worker.NewLogger(s.LogLevel, s.LogFormat, os.Stdout, mediumOf(os.Stdout), nameOf(s))
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return run(ctx, s, log)
		},
	}
	cmd.Flags().BoolVar(&printConfig, "print-config", false, "print the effective settings, secrets masked, and exit")
	return cmd
}

// nameOf is in every line of a worker, so that the lines of several, brought
// together, can be told apart.
func nameOf(s settings) zap.Field { return zap.String("worker", s.WorkerName) }

// signaled is the cause of a context that a signal ended.
type signaled struct{ os.Signal }

func (s signaled) Error() string { return s.String() }

// untilSignal returns a context that ends with the first SIGTERM, SIGINT or,
// unless nohup has it ignored, SIGHUP. The second ends the process at once.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		select {
		case first := <-signals:
			cancel(signaled{first})
		case <-ctx.Done():
			return
		}
		if second, ok := (<-signals).(syscall.Signal); ok {
			// A terminal that is held up takes nothing.
			time.AfterFunc(time.Second, func() { os.Exit(128 + int(second)) })
			releaseTerminal()
			os.Exit(128 + int(second))
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// run runs a worker and its HTTP endpoints until ctx ends, gracefully, or
// until it cannot go on.
func run(ctx context.Context, s settings, log *zap.Logger) (err error) {
	since := time.Now()
	log.Info("starting", worker.Event(worker.EventWorkerStarted),
		zap.String("version", buildVersion()), zap.String("commit", buildCommit()))
	defer func() {
		_ = log.Sync() // what was counted; a terminal or a pipe cannot be synced
		log.Info("stopped", worker.Event(worker.EventWorkerStopped), zap.Duration("uptime_ms", time.Since(since)))
	}()
	database, err := store.Open(s.databaseURL, s.listenURL)
	if err != nil {
		return err
	}
	if s.inFile() {
		database.Reread(s.addresses)
	}
	stuck := false
	defer func() {
		if !stuck { // Close waits for connections in use
			database.Close()
		}
	}()
	metrics := worker.NewMetrics(buildVersion(), buildCommit())
	health := worker.NewHealth(time.Now, healthBounds(s.Config))
	w, err := worker.New(s.Config, database, log, metrics, health)
	if err != nil {
		return err
	}

	// A graceful stop that takes longer than its grace is none.
	graceOver, forced := context.WithCancel(context.Background())
	defer forced()
	announced := make(chan struct{})
	stopWatching := context.AfterFunc(ctx, func() {
		defer close(announced)
		log.Info("stopping", worker.Event(worker.EventWorkerStopping),
			zap.String("reason", context.Cause(ctx).Error()), zap.Duration("grace_ms", s.ShutdownGrace))
		time.AfterFunc(s.ShutdownGrace, forced)
	})
	defer stopWatching()

	var group errgroup.Group
	serving, stopServing := context.WithCancel(context.Background())
	defer stopServing()
	if s.HTTPEnabled() {
		server, err := worker.ListenHTTP(ctx, s.HTTPAddress, worker.NewHandler(health, metrics), log)
		if err != nil {
			return err
		}
		group.Go(func() error { return server.Run(serving) })
	}
	finished := make(chan error, 1)
	go func() { finished <- work(ctx, s, w, log, metrics) }()
	select {
	case err = <-finished:
	case <-graceOver.Done():
		stuck = true
		return fmt.Errorf("did not stop within TOKENALERT_SHUTDOWN_GRACE (%s); the server rolls back what was not committed", s.ShutdownGrace)
	}
	if !stopWatching() {
		<-announced // before the line that says that it has stopped
	} else if err != nil {
		log.Error("giving up", worker.Event(worker.EventWorkerStopping),
			zap.String("reason", err.Error()), zap.Duration("grace_ms", s.ShutdownGrace))
	}
	stopServing()
	return errors.Join(err, group.Wait())
}

// work counts and tells, and delivers where a channel is set up, until ctx ends
// or one of them cannot go on.
func work(ctx context.Context, s settings, w *worker.Worker, log *zap.Logger, metrics *worker.Metrics) error {
	channels := s.channels()
	if len(channels.Names()) == 0 {
		return w.Run(ctx)
	}
	w.DeliverBy(channels.Names()...)
	d := &delivery.Deliverer{
		Channels: channels, Words: w.Words(), Zone: w.Zone, Log: log, Metrics: metrics, Grace: s.ShutdownGrace,
		OpenQueue: func(config river.Config) (*store.Queue, error) {
			q, err := store.OpenQueue(s.listenURL, config)
			if err == nil && s.inFile() {
				q.Reread(func() (string, string, error) {
					_, direct, err := s.addresses()
					return direct, "", err
				})
			}
			return q, err
		},
		OpenNotifications: func() (*store.Store, error) {
			url, err := channels.Notifications()
			if err != nil {
				return nil, err
			}
			other, err := store.OpenFor("notifications", url, "")
			if err == nil {
				other.Reread(func() (string, string, error) {
					url, err := channels.Notifications()
					return url, "", err
				})
			}
			return other, err
		},
	}
	group, working := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := w.Run(working); err != nil {
			return err
		}
		return errStopped
	})
	group.Go(func() error { return d.Run(working) })
	if err := group.Wait(); !errors.Is(err, errStopped) {
		return err
	}
	return nil
}

// errStopped ends what runs beside a worker that stopped on purpose.
var errStopped = errors.New("stopped")
