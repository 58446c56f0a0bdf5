package privatepg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// poolerPort names the socket file of a server's first PgBouncer, and those of
// the others count on from it.
const poolerPort = 6432

// PoolerOptions are those of a PgBouncer.
type PoolerOptions struct {
	// Program is the path of pgbouncer.
	Program string

	// Users may log in, without a password.
	Users []string

	// Settings go to the section [pgbouncer] of its configuration, after the
	// defaults.
	Settings map[string]string
}

// Pooler is a PgBouncer before a server, for all its databases. It runs as the
// server's user, since PgBouncer refuses root too, with its socket beside the
// server's. Server.Stop stops it; a server that only restarts keeps it.
type Pooler struct {
	server  *Server
	options PoolerOptions
	port    int
	process *process
}

// StartPooler starts a PgBouncer and returns when it takes connections.
func (s *Server) StartPooler(ctx context.Context, o PoolerOptions) (*Pooler, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errStopped
	}
	o.Settings = maps.Collect(maps.All(o.Settings)) // never nil
	p := &Pooler{server: s, options: o, port: poolerPort + len(s.poolers)}
	configuration, err := p.configure()
	if err != nil {
		return nil, fmt.Errorf("configure PgBouncer: %w", err)
	}
	log := &tail{next: s.log.next}
	cmd := s.account.command(o.Program, "-q", configuration)
	cmd.Stdout, cmd.Stderr = log, log
	if p.process, err = startProcess(cmd); err != nil {
		return nil, fmt.Errorf("start PgBouncer: %w", err)
	}
	if err := p.awaitReady(ctx); err != nil {
		p.Stop()
		return nil, fmt.Errorf("PgBouncer is not ready: %w; its last lines:\n%s", err, log.lastLines())
	}
	s.poolers = append(s.poolers, p)
	return p, nil
}

// configure writes the configuration and returns its path.
func (p *Pooler) configure() (string, error) {
	folder := p.server.dir.path
	file := filepath.Join(folder, fmt.Sprintf("pooler-%d.ini", p.port))
	users := filepath.Join(folder, fmt.Sprintf("pooler-%d.users", p.port))
	settings := map[string]string{
		"listen_addr":     "",
		"listen_port":     strconv.Itoa(p.port),
		"unix_socket_dir": folder,
		"auth_type":       "trust",
		"auth_file":       users,
		"max_client_conn": "500",
		// A server that restarts is tried again at once, not after 15 seconds.
		"server_login_retry": "0.1",
	}
	maps.Copy(settings, p.options.Settings)
	var ini, list strings.Builder
	fmt.Fprintf(&ini, "[databases]\n* = host=%s port=%d\n[pgbouncer]\n", folder, p.server.port)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&ini, "%s = %s\n", name, settings[name])
	}
	for _, user := range p.options.Users {
		fmt.Fprintf(&list, "%q \"\"\n", user)
	}
	// Nobody else can enter the folder.
	return file, errors.Join(os.WriteFile(file, []byte(ini.String()), 0o644), os.WriteFile(users, []byte(list.String()), 0o644))
}

func (p *Pooler) awaitReady(ctx context.Context) error {
	socket := filepath.Join(p.server.dir.path, fmt.Sprintf(".s.PGSQL.%d", p.port))
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	probe := time.NewTicker(readyProbe)
	defer probe.Stop()
	for {
		// No more, or it would keep a connection to the server.
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.process.Done:
			return fmt.Errorf("it has ended (%s)", p.process.Cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%w; last attempt: %w", ctx.Err(), err)
		case <-probe.C:
		}
	}
}

// URLAs connects through the pooler to a database as a role.
func (p *Pooler) URLAs(role, db string) string { return p.server.socketURL(role, db, p.port) }

// Reload changes settings while the pooler runs. It takes them up soon after.
func (p *Pooler) Reload(settings map[string]string) error {
	maps.Copy(p.options.Settings, settings)
	if _, err := p.configure(); err != nil {
		return fmt.Errorf("configure PgBouncer: %w", err)
	}
	return p.process.Cmd.Process.Signal(syscall.SIGHUP)
}

// Stop ends the pooler, and with it all connections through it.
func (p *Pooler) Stop() { p.process.stop(context.Background(), kill) }
