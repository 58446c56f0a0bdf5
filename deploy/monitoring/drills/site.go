package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/deploy/monitoring/prometheus"
	"tokenalert/deploy/monitoring/receiver"
	"tokenalert/internal/child"
	"tokenalert/internal/demo"
	"tokenalert/internal/host"
	"tokenalert/internal/privatepg"
)

const (
	// stopWithin is more than the grace of a worker.
	stopWithin = 15 * time.Second
	// within bounds the wait for anything: the leader looks once a minute how far
	// the server is from refusing.
	within    = 3 * time.Minute
	lookEvery = 100 * time.Millisecond

	users = 12
	// What the host logs besides, so many calls a second of so many tokens.
	callsPerSecond, tokensPerCall = 5, 2500
)

// A site is what a drill has to itself: a server with the host's tables and
// traffic, two workers, and a Prometheus that scrapes them.
type site struct {
	tools     tools
	directory string
	settings  []string // of the workers, besides

	server   *privatepg.Server
	platform *demo.Platform
	// Users who use all of their limit at once: one during the fault, one after it.
	during, after uuid.UUID
	workers       map[string]*worker
	prometheus    *prometheus.Server
	receiver      *receiver.Receiver // nil: nothing is delivered
	connStrings
	// variables are the environment of a runbook's commands, besides what each has.
	variables []string

	endTraffic func() error
	undo       []func() // what to end, last first
}

// tools are what all drills use: the program, the rules as they are deployed, the
// folder of this tree.
type tools struct{ tokenalert, rules, root string }

type connStrings struct{ admin, owner, worker string }

// A worker is a process, and where its metrics are.
type worker struct {
	*child.Process
	log, address string
}

func openSite(ctx context.Context, t tools, directory string, d *drill) (s *site, err error) {
	s = &site{tools: t, directory: directory, settings: d.settings, workers: map[string]*worker{}, endTraffic: func() error { return nil }}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return s, err
	}
	if s.server, err = privatepg.Start(ctx, privatepg.Options{Settings: d.server, BinDir: os.Getenv("PGTEST_BIN")}); err != nil {
		return s, err
	}
	s.undo = append(s.undo, s.stopServer(s.server))
	if err := demo.CreateDatabase(ctx, s.server.URL("postgres")); err != nil {
		return s, err
	}
	s.connStrings = stringsOf(s.server)
	if s.platform, err = demo.NewPlatform(ctx, s.owner, users); err != nil {
		return s, err
	}
	s.during, s.after, s.platform.Users = s.platform.Users[0], s.platform.Users[1], s.platform.Users[2:]
	for _, args := range [][]string{{"migrate", "up"}, {"migrate", "grant", demo.WorkerRole}} {
		cmd := exec.CommandContext(ctx, t.tokenalert, args...)
		cmd.Env = []string{"DATABASE_URL=" + s.owner}
		if out, err := cmd.CombinedOutput(); err != nil {
			return s, fmt.Errorf("tokenalert %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	if err := s.writeSecret(s.worker); err != nil {
		return s, err
	}
	if d.receives {
		if s.receiver, err = receiver.Start(ctx); err != nil {
			return s, err
		}
		s.undo = append(s.undo, s.receiver.Down)
		s.settings = slices.Concat(s.settings, s.receiver.Settings())
	}
	if err := s.startPrometheus(ctx, cmp.Or(d.hurry, defaultHurry)); err != nil {
		return s, err
	}
	if err := s.startWorkers(ctx); err != nil {
		return s, err
	}
	s.startTraffic(ctx, s.owner)
	return s, until(ctx, "one leads of two, and no alert is near", s.quiet)
}

func stringsOf(server *privatepg.Server) connStrings {
	return connStrings{
		admin: server.URL(demo.Database), owner: server.URLAs(demo.HostRole, demo.Database), worker: server.URLAs(demo.WorkerRole, demo.Database),
	}
}

func (s *site) stopServer(server *privatepg.Server) func() {
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		_ = server.Stop(ctx) // its directory goes with the next start of any
	}
}

// secret is the file that stands for the Secret's, mounted in each pod.
func (s *site) secret() string { return filepath.Join(s.directory, "database-url") }

func (s *site) writeSecret(url string) error {
	return os.WriteFile(s.secret(), []byte(url), 0o600)
}

// environment is that of the workers, but for their database.
func (s *site) environment() []string {
	return append([]string{"TOKENALERT_LOG_FORMAT=json"}, s.settings...)
}

// startWorkers starts both, and has them scraped.
func (s *site) startWorkers(ctx context.Context) error {
	for n := 1; n <= 2; n++ {
		if err := s.startWorker(ctx, "tokenalert-"+strconv.Itoa(n)); err != nil {
			return err
		}
	}
	return s.scrapeWorkers()
}

func (s *site) startWorker(ctx context.Context, pod string) error {
	w := &worker{log: filepath.Join(s.directory, fmt.Sprintf("%s-%d.log", pod, len(s.undo)))}
	log, err := os.Create(w.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(s.tools.tokenalert, "run")
	cmd.Env = append(s.environment(), "DATABASE_URL_FILE="+s.secret(), "TOKENALERT_WORKER_NAME="+pod, "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = log, log
	if w.Process, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	s.undo = append(s.undo, func() { _ = w.stop() })
	s.workers[pod] = w
	return until(ctx, pod+" serves its metrics", func(context.Context) (bool, error) {
		text, err := os.ReadFile(w.log)
		if err != nil {
			return false, err
		}
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
			var line struct {
				Event string
				Port  int
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Event == "http.listening" {
				w.address = fmt.Sprintf("127.0.0.1:%d", line.Port)
				return true, nil
			}
		}
		select {
		case <-w.Done:
			return false, fmt.Errorf("it ended: %w\n%s", w.Err, text)
		default:
			return false, nil
		}
	})
}

// scrapeWorkers tells Prometheus where they are, as service discovery does.
func (s *site) scrapeWorkers() error {
	var targets []prometheus.Target
	for pod, w := range s.workers {
		targets = append(targets, prometheus.Target{Address: w.address, Labels: map[string]string{"namespace": "cms", "pod": pod}})
	}
	return s.prometheus.SetTargets(targets...)
}

// stop ends it as Kubernetes does, and says where it did not end by itself, or
// with an error.
func (w *worker) stop() error {
	_ = w.Cmd.Process.Signal(syscall.SIGTERM) // or it has ended
	if !w.EndsWithin(stopWithin) {
		return fmt.Errorf("the worker did not stop within %s", stopWithin)
	}
	return w.Err
}

func (s *site) stopWorkers() error {
	var errs []error
	for _, w := range s.workers {
		errs = append(errs, w.stop())
	}
	clear(s.workers)
	return errors.Join(append(errs, s.scrapeWorkers())...)
}

// startTraffic has the host log calls until endTraffic.
func (s *site) startTraffic(ctx context.Context, url string) {
	traffic, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := s.platform.Traffic(traffic, url, callsPerSecond, tokensPerCall)
		ended <- err
	}()
	s.endTraffic = func() error {
		cancel()
		s.endTraffic = func() error { return nil }
		return <-ended
	}
}

// execute runs statements as somebody, each by itself.
func execute(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// exhaust has a user use all of the limit in one call.
func (s *site) exhaust(ctx context.Context, user uuid.UUID) error {
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return host.LogUsage(ctx, conn, user, s.platform.Organization, demo.Limit)
}

// audit waits until everything is counted and told, and once, and delivered.
func (s *site) audit(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var last demo.Audit
	err = until(ctx, "all is counted and told", func(ctx context.Context) (bool, error) {
		a, err := demo.RunAudit(ctx, conn, []int{80, 90, 100})
		if err == nil {
			last = a
		}
		if err != nil || !a.Passed() || a.Told < 2 {
			return false, err
		}
		return s.delivered(ctx, conn)
	})
	if err != nil {
		return fmt.Errorf("%w: %+v", err, last)
	}
	return nil
}

// delivered reports whether the receiver took each alert that was told, and nothing
// is on its way any more.
func (s *site) delivered(ctx context.Context, conn *pgx.Conn) (bool, error) {
	if s.receiver == nil {
		return true, nil
	}
	rows, err := conn.Query(ctx, `SELECT id::text FROM token_limit_alerts WHERE alert_sent
		UNION ALL SELECT 'undelivered' FROM tokenalert.river_job WHERE state <> 'completed'`)
	if err != nil {
		return false, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return err == nil && !slices.ContainsFunc(ids, func(id string) bool { return s.receiver.Took(id) == 0 }), err
}

func (s *site) close() {
	_ = s.endTraffic() // the drill has failed otherwise
	for len(s.undo) > 0 {
		last := len(s.undo) - 1
		s.undo[last]()
		s.undo = s.undo[:last]
	}
}

// until waits for something to be so.
func until(ctx context.Context, what string, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		so, err := is(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return fmt.Errorf("until %s: %w", what, err)
		case err == nil && so:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %s", within, what)
		case <-look.C:
		}
	}
}
