package lane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/faults/line"
	"tokenalert/internal/host"
	"tokenalert/internal/privatepg"
)

// The roles of a lane's server.
const (
	ownerRole  = "host_owner"
	workerRole = "tokenalert"
)

const templateDatabase = "laboratory"

// Options of a lane.
type Options struct {
	Binary    string // the tokenalert to be judged
	Directory string // for logs and traces, a folder for each schedule
	Keep      bool   // also what went well
	BinDir    string // of PostgreSQL; empty: looked for
	// Settings are those of workers whose recovery is watched, where they are not
	// the defaults.
	Settings []string
	// Sample is called every SampleEvery with what workers and tables take.
	Sample      func(Sample)
	SampleEvery time.Duration
}

// A Lane is a server on which schedules are played.
type Lane struct {
	o         Options
	server    *privatepg.Server
	log       *os.File
	lines     []*line.Line // used again by each schedule
	schedules atomic.Int64
}

// New starts the server and makes the database that each schedule begins with.
func New(ctx context.Context, o Options) (*Lane, error) {
	if err := os.MkdirAll(o.Directory, 0o755); err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(o.Directory, "postgresql-*.log")
	if err != nil {
		return nil, err
	}
	l := &Lane{o: o, log: log}
	l.server, err = privatepg.Start(ctx, privatepg.Options{BinDir: o.BinDir, TCP: true, Log: log, Settings: map[string]string{
		"max_connections": "64", "max_prepared_transactions": "20",
		"deadlock_timeout": "200ms", "log_min_messages": "warning",
	}})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := l.makeTemplate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make the laboratory's database: %w", err), l.Close())
	}
	return l, nil
}

// Close stops the server.
func (l *Lane) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	errs := []error{l.server.Stop(ctx), l.log.Close()}
	for _, line := range l.lines {
		errs = append(errs, line.Close())
	}
	return errors.Join(errs...)
}

// line is the nth, whole.
func (l *Lane) line(ctx context.Context, n int) (*line.Line, error) {
	if n < len(l.lines) {
		return l.lines[n], l.lines[n].Heal()
	}
	added, err := line.New(ctx, l.address())
	if err == nil {
		l.lines = append(l.lines, added)
	}
	return added, err
}

// exec runs statements as the superuser.
func (l *Lane) exec(ctx context.Context, database string, statements ...string) error {
	return execAt(ctx, l.server.URL(database), statements...)
}

func execAt(ctx context.Context, at string, statements ...string) error {
	conn, err := pgx.Connect(ctx, at)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func (l *Lane) makeTemplate(ctx context.Context) error {
	err := l.exec(ctx, "postgres", "CREATE ROLE "+ownerRole+" LOGIN", "CREATE ROLE "+workerRole+" LOGIN",
		"CREATE DATABASE "+templateDatabase+" OWNER "+ownerRole)
	if err != nil {
		return err
	}
	if err := l.exec(ctx, templateDatabase, "ALTER SCHEMA public OWNER TO "+ownerRole); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, l.server.URLAs(ownerRole, templateDatabase))
	if err != nil {
		return err
	}
	if err := errors.Join(host.Apply(ctx, conn, host.CMS), conn.Close(ctx)); err != nil {
		return err
	}
	for _, args := range [][]string{{"migrate", "up"}, {"migrate", "grant", workerRole}} {
		if err := l.command(ctx, templateDatabase, args...); err != nil {
			return err
		}
	}
	if err := execAt(ctx, l.server.URLAs(ownerRole, templateDatabase), laboratory...); err != nil {
		return err
	}
	if err := l.makeInbox(ctx); err != nil {
		return err
	}
	return l.exec(ctx, templateDatabase, holdOurs...)
}

// command runs tokenalert as the owner of the host's tables.
func (l *Lane) command(ctx context.Context, database string, args ...string) error {
	cmd := exec.CommandContext(ctx, l.o.Binary, args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+l.server.URLAs(ownerRole, database))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tokenalert %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// address is where the server listens besides its socket.
func (l *Lane) address() string {
	u, err := url.Parse(l.server.TCPURL(workerRole, templateDatabase))
	if err != nil {
		panic(err) // it was made by url.URL.String
	}
	return u.Host
}

// workerURL is that of a worker that reaches the server at host and port.
func workerURL(address string, port int, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(workerRole), Host: net.JoinHostPort(address, fmt.Sprint(port)), Path: "/" + database,
		RawQuery: "sslmode=disable&connect_timeout=1",
	}
	return u.String()
}

// directory is that of a schedule's traces.
func (l *Lane) directory(seed uint64) string {
	return filepath.Join(l.o.Directory, fmt.Sprintf("seed-%d", seed))
}
