package privatepg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// ErrNoBaseBackup means that the server's folder of programs has no
// pg_basebackup, as a download that holds the server alone.
var ErrNoBaseBackup = errors.New("no pg_basebackup beside the server")

// Standby makes a server from a base backup of this one, which then streams
// from it, and returns when it accepts connections. Settings go to its
// postgresql.conf after those of its origin: with recovery_target_name and
// recovery_target_action = promote it becomes a primary of its own, of the same
// system identifier, at that restore point (PostgreSQL manual, 20.5.5). It is
// stopped by its own Stop.
func (s *Server) Standby(ctx context.Context, settings map[string]string) (*Server, error) {
	program := filepath.Join(s.binDir, "pg_basebackup")
	if _, err := os.Stat(program); err != nil {
		return nil, ErrNoBaseBackup
	}
	standby := &Server{binDir: s.binDir, account: s.account, port: socketPort, log: &tail{next: s.log.next}}
	var err error
	if standby.dir, err = newDirectory(s.account); err != nil {
		return nil, err
	}
	cmd := s.account.command(program, "--pgdata="+standby.dir.data(), "--dbname="+s.URL("postgres"),
		"--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync")
	cmd.Stdout, cmd.Stderr = standby.log, standby.log
	cmd.ExtraFiles = []*os.File{standby.dir.server}
	if err := run(ctx, cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("pg_basebackup: %w\n%s", err, standby.log.lastLines()), standby.dir.remove())
	}
	all := map[string]string{
		"listen_addresses": "", "port": strconv.Itoa(standby.port), "unix_socket_directories": standby.dir.path,
		// Or else a promotion waits for up to 5 s beside a primary that is gone.
		"wal_retrieve_retry_interval": "100ms",
	}
	maps.Copy(all, settings)
	err = appendSettings(filepath.Join(standby.dir.data(), "postgresql.conf"), all)
	if err == nil {
		err = standby.launch(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, standby.dir.remove())
	}
	return standby, nil
}

// Promote makes a primary of a standby and returns when it takes writes.
func (s *Server) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var promoted bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&promoted); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if !promoted {
		return errors.New("promote: not within a minute")
	}
	return nil
}

// Freeze stops the server's processes where they stand, as a machine does that
// hangs: the kernel still takes connections, and nobody answers. Whoever was
// connected before stays so. The returned function has them go on.
func (s *Server) Freeze(ctx context.Context) (thaw func(), err error) {
	pids := []int{s.Pid()}
	if pids[0] == 0 {
		return nil, errors.New("freeze: the server is down")
	}
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return nil, fmt.Errorf("freeze: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
	if err == nil {
		var others []int
		others, err = pgx.CollectRows(rows, pgx.RowTo[int])
		pids = append(pids, others...)
	}
	if err != nil {
		return nil, fmt.Errorf("freeze: %w", err)
	}
	send := func(signal syscall.Signal) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, signal) // it may have ended
		}
	}
	send(syscall.SIGSTOP)
	return func() { send(syscall.SIGCONT) }, nil
}
