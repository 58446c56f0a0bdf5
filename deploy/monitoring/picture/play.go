package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/jackc/pgx/v5"

	"tokenalert/deploy/monitoring/prometheus"
	"tokenalert/deploy/monitoring/receiver"
	"tokenalert/internal/child"
	"tokenalert/internal/demo"
	"tokenalert/internal/host"
	"tokenalert/internal/module"
	"tokenalert/internal/privatepg"
	"tokenalert/store"
)

const (
	users       = 400
	tokens      = 1000 // of a call, on average
	scrapeEvery = time.Second
	stopWithin  = 15 * time.Second

	// What a PodMonitor would add.
	namespace, job = "platform", "platform/tokenalert"
)

// phases are what the users do: so many calls a second for so long. At the beginning
// of one of them the leader is killed, and another pod takes its place. In some
// nobody answers where alerts are posted to.
var phases = []struct {
	lasts time.Duration
	rate  float64
	kill  bool
	away  bool
}{
	{lasts: 40 * time.Second, rate: 60},
	{lasts: 20 * time.Second, rate: 1500, away: true},
	{lasts: 40 * time.Second, rate: 2, away: true},
	{lasts: 40 * time.Second, rate: 120, kill: true},
	{lasts: 40 * time.Second, rate: 30},
}

// played says when what happened.
type played struct{ begin, killed, end time.Time }

// site is a database with its workers, and the Prometheus that scrapes them.
type site struct {
	server     *privatepg.Server
	platform   *demo.Platform
	binary     string
	prometheus *prometheus.Server
	receiver   *receiver.Receiver
	workers    []*pod
	started    int
}

// play plays the phases and hands over to ask before all is taken down.
func play(ctx context.Context, ask func(v1.API, played) error) (p played, err error) {
	folder, err := os.MkdirTemp("", "tokenalert-picture-")
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	s := &site{binary: filepath.Join(folder, "tokenalert")}
	if err := module.Build(ctx, s.binary); err != nil {
		return p, err
	}
	if s.server, err = privatepg.Start(ctx, privatepg.Options{Settings: map[string]string{"track_commit_timestamp": "on"}}); err != nil {
		return p, err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		err = errors.Join(err, s.server.Stop(stopping))
	}()
	if err := s.install(ctx); err != nil {
		return p, err
	}
	if s.prometheus, err = prometheus.Start(ctx, prometheus.Options{Interval: scrapeEvery}); err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, s.prometheus.Stop()) }()
	if s.receiver, err = receiver.Start(ctx); err != nil {
		return p, err
	}
	defer s.receiver.Down()
	defer func() {
		for _, w := range s.workers {
			err = errors.Join(err, w.stop())
		}
	}()
	for range 2 {
		if err := s.add(); err != nil {
			return p, err
		}
	}
	p.begin = time.Now()
	for _, phase := range phases {
		s.receiver.Answer(http.StatusNoContent)
		if phase.away {
			s.receiver.Answer(http.StatusServiceUnavailable)
		}
		if phase.kill {
			p.killed = time.Now()
			if err := s.replace(); err != nil {
				return p, err
			}
		}
		writing, cancel := context.WithTimeout(ctx, phase.lasts)
		_, err := s.platform.Traffic(writing, s.hostURL(), phase.rate, tokens)
		cancel()
		if err != nil || ctx.Err() != nil {
			return p, errors.Join(err, ctx.Err())
		}
		if err := s.correct(ctx); err != nil {
			return p, err
		}
	}
	p.end = time.Now()
	return p, ask(s.prometheus.API, p)
}

func (s *site) hostURL() string { return s.server.URLAs(demo.HostRole, demo.Database) }

// install makes the host's database, users who have used up to three quarters of
// their limit, and tokenalert's schema.
func (s *site) install(ctx context.Context) error {
	if err := demo.CreateDatabase(ctx, s.server.URL("postgres")); err != nil {
		return err
	}
	var err error
	if s.platform, err = demo.NewPlatform(ctx, s.hostURL(), users); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.hostURL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, user := range s.platform.Users {
		if err := host.LogUsage(ctx, conn, user, s.platform.Organization, 1+rand.IntN(demo.Limit*3/4)); err != nil {
			return err
		}
	}
	migrator, err := store.NewMigrator(s.hostURL())
	if err != nil {
		return err
	}
	defer migrator.Close()
	if err := migrator.Up(ctx); err != nil {
		return err
	}
	return migrator.Grant(ctx, demo.WorkerRole)
}

// correct is the host taking back some rows, and lowering the limit of some users.
func (s *site) correct(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.hostURL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range []string{
		"DELETE FROM ai_usage_logs WHERE id IN (SELECT id FROM ai_usage_logs ORDER BY id LIMIT 20)",
		"UPDATE users SET monthly_token_limit = monthly_token_limit / 2 WHERE id IN (SELECT id FROM users ORDER BY id LIMIT 5)",
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// add starts a worker and has Prometheus scrape it.
func (s *site) add() error {
	s.started++
	w, err := startPod(s.binary, fmt.Sprintf("tokenalert-%d", s.started), s.server.URLAs(demo.WorkerRole, demo.Database), s.receiver.Settings()...)
	if err != nil {
		return err
	}
	s.workers = append(s.workers, w)
	return s.scrape()
}

func (s *site) scrape() error {
	var targets []prometheus.Target
	for _, w := range s.workers {
		targets = append(targets, prometheus.Target{Address: w.address, Labels: map[string]string{"namespace": namespace, "job": job, "pod": w.name}})
	}
	return s.prometheus.SetTargets(targets...)
}

// replace kills the leader, which is the first, and starts another when the second
// leads: a Deployment would need longer.
func (s *site) replace() error {
	if err := s.workers[0].kill(); err != nil {
		return err
	}
	s.workers = s.workers[1:]
	select {
	case <-s.workers[0].leads:
	case <-s.workers[0].process.Done:
		return errors.Join(errors.New("the follower ended"), s.workers[0].process.Err)
	}
	return s.add()
}

// pod is a worker.
type pod struct {
	name    string
	address string // of its metrics
	process *child.Process
	leads   chan struct{} // has one when it does
}

// startPod starts a worker and waits until it serves its metrics and leads, or waits
// for the lead.
func startPod(binary, name, url string, settings ...string) (*pod, error) {
	cmd := exec.Command(binary, "run")
	cmd.Env = append(settings, "PATH="+os.Getenv("PATH"), "DATABASE_URL="+url, "TOKENALERT_WORKER_NAME="+name,
		"TOKENALERT_HTTP_ADDRESS=127.0.0.1:0", "TOKENALERT_LOG_FORMAT=json")
	log, into := io.Pipe()
	cmd.Stdout = into
	process, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	go func() {
		<-process.Done
		_ = into.Close()
	}()
	p := &pod{name: name, process: process, leads: make(chan struct{}, 1)}
	begun := make(chan string, 1)
	go p.follow(log, begun)
	port, ok := <-begun
	if !ok {
		return nil, errors.Join(fmt.Errorf("the worker %s ended at once", name), process.Err)
	}
	p.address = "127.0.0.1:" + port
	return p, nil
}

// follow reads a worker's log to its end, and hands out its port when it has begun.
func (p *pod) follow(log io.Reader, begun chan<- string) {
	defer close(begun)
	port, settled := "", false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct {
			Event string      `json:"event"`
			Port  json.Number `json:"port"`
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			continue
		}
		switch line.Event {
		case "http.listening":
			port = line.Port.String()
		case "leader.acquired":
			settled = true
			select {
			case p.leads <- struct{}{}:
			default: // said before
			}
		case "follower.waiting":
			settled = true
		}
		if port != "" && settled {
			select {
			case begun <- port:
			default: // said before
			}
		}
	}
}

func (p *pod) kill() error {
	err := p.process.Cmd.Process.Kill()
	<-p.process.Done
	return err
}

func (p *pod) stop() error {
	if err := p.process.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	if !p.process.EndsWithin(stopWithin) {
		return fmt.Errorf("%s does not stop", p.name)
	}
	return p.process.Err
}
