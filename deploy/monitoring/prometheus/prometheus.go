// Package prometheus builds Prometheus from its Go module and runs it, on a free
// port and for one process: to try the rules, and to draw the dashboard.
package prometheus

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"tokenalert/internal/child"
)

const (
	startWithin = time.Minute
	stopWithin  = 20 * time.Second
)

// Options say what it scrapes and evaluates.
type Options struct {
	Rules    string        // path of a rule file; "": none
	Interval time.Duration // between scrapes, and between evaluations; whole milliseconds
	Targets  []Target
}

// Target is what is scraped, at /metrics.
type Target struct {
	Address string            // host:port
	Labels  map[string]string // what service discovery would add: namespace, job, pod
}

// MarshalJSON gives the form of file_sd_config.
func (t Target) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"targets": []string{t.Address}, "labels": t.Labels})
}

// Server is a Prometheus that runs.
type Server struct {
	API v1.API
	URL string

	directory string
	process   *child.Process
	log       chan struct{} // closed when all of it was read
}

// Tool builds one of the module's tools, once for Go's cache, and returns its path.
// It leaves out the service discoveries, which take most of the time. The current
// folder must be in this module.
func Tool(ctx context.Context, name string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "tool", "-n", name)
	cmd.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -tags=remove_all_sd"))
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// Start builds it where that was not done before, starts it, and returns when it
// answers. It does not outlive this process.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	binary, err := Tool(ctx, "prometheus")
	if err != nil {
		return nil, err
	}
	directory, err := os.MkdirTemp("", "tokenalert-prometheus-")
	if err != nil {
		return nil, err
	}
	s := &Server{directory: directory, log: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if err := s.configure(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := s.start(ctx, binary); err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.Config{Address: s.URL})
	if err != nil {
		return nil, err
	}
	s.API = v1.NewAPI(client)
	return s, s.ready(ctx)
}

func (s *Server) configure(o Options) error {
	rules := ""
	if o.Rules != "" {
		path, err := filepath.Abs(o.Rules)
		if err != nil {
			return err
		}
		rules = fmt.Sprintf("rule_files: [%q]\n", path)
	}
	every := fmt.Sprintf("%dms", o.Interval.Milliseconds())
	config := fmt.Sprintf(`global: {scrape_interval: %[1]s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}
%[2]sscrape_configs:
  - job_name: tokenalert
    file_sd_configs: [{files: [%[3]q], refresh_interval: 1s}]
`, every, rules, s.path("targets.json"))
	if err := os.WriteFile(s.path("prometheus.yml"), []byte(config), 0o600); err != nil {
		return err
	}
	return s.SetTargets(o.Targets...)
}

func (s *Server) path(name string) string { return filepath.Join(s.directory, name) }

// SetTargets takes these in place of those before, which become stale. Prometheus
// notices within a second.
func (s *Server) SetTargets(targets ...Target) error {
	text, err := json.Marshal(append([]Target{}, targets...))
	if err != nil {
		return err
	}
	// It is never seen half written.
	if err := os.WriteFile(s.path("targets.new"), text, 0o600); err != nil {
		return err
	}
	return os.Rename(s.path("targets.new"), s.path("targets.json"))
}

var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

// start starts the process and learns from its log where it listens.
func (s *Server) start(ctx context.Context, binary string) error {
	cmd := exec.Command(binary, "--config.file="+s.path("prometheus.yml"), "--storage.tsdb.path="+s.path("data"),
		"--web.listen-address=127.0.0.1:0")
	cmd.Dir = s.directory
	log, into := io.Pipe()
	cmd.Stderr = into
	process, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("start Prometheus: %w", err)
	}
	s.process = process
	go func() {
		<-process.Done
		_ = into.Close()
	}()
	address := make(chan string, 1)
	var said strings.Builder // until it listens
	go func() {
		defer close(s.log)
		for lines, found := bufio.NewScanner(log), false; lines.Scan(); {
			if found {
				continue
			}
			_, _ = fmt.Fprintln(&said, lines.Text())
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				found = true
				address <- m[1]
			}
		}
	}()
	select {
	case a := <-address:
		s.URL = "http://" + a
		return nil
	case <-s.log:
		return fmt.Errorf("prometheus ended at once: %w\n%s", process.Err, said.String())
	case <-ctx.Done():
		return fmt.Errorf("prometheus does not listen: %w", ctx.Err())
	}
}

// ready waits until it answers queries.
func (s *Server) ready(ctx context.Context) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/-/ready", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("prometheus does not answer: %w", errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends it and removes what it has stored.
func (s *Server) Stop() error {
	if s.process != nil {
		_ = s.process.Cmd.Process.Signal(syscall.SIGTERM) // or it has ended
		s.process.EndsWithin(stopWithin)
		<-s.log
	}
	return os.RemoveAll(s.directory)
}
