package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/internal/demo"
	"tokenalert/internal/host"
	"tokenalert/internal/module"
	"tokenalert/internal/privatepg"
)

// settings are the server's, the same for everybody; what is not named here is
// PostgreSQL's default. Commits go to the disk. No checkpoint comes by itself
// into the middle of one competitor's time.
var settings = map[string]string{
	"shared_buffers": "512MB", "max_wal_size": "16GB", "checkpoint_timeout": "1h",
	"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "track_commit_timestamp": "off",
	"log_line_prefix": logPrefix,
	// As a tick sets them for itself.
	"work_mem": "32MB", "jit": "off",
	"max_connections": "300", // so that 200 transactions can be open
}

// A user of the host, with a monthly limit.
type user struct {
	id, organization uuid.UUID
	limit            int
}

// A bench has the server, the binary and the templates.
type bench struct {
	options
	server  *privatepg.Server
	admin   *pgx.Conn
	binary  string
	log     *serverLog
	scratch string // logs of the workers, and what they are
	clones  int
	starts  int // of workers

	versions map[string]string // of what workers are made of
}

func newBench(ctx context.Context, o options, scratch string) (*bench, error) {
	b := &bench{options: o, scratch: scratch, log: &serverLog{}, binary: filepath.Join(scratch, "tokenalert")}
	if err := module.Build(ctx, b.binary, "-tags", "nethttpomithttp2", "-ldflags", "-s -w"); err != nil {
		return nil, err
	}
	var err error
	if b.server, err = privatepg.Start(ctx, privatepg.Options{BinDir: o.binDir, Settings: settings, Log: b.log}); err != nil {
		return nil, err
	}
	if err := b.prepare(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare(ctx context.Context) error {
	var err error
	if b.admin, err = pgx.Connect(ctx, b.server.URL("postgres")); err != nil {
		return err
	}
	if err := demo.CreateDatabase(ctx, b.server.URL("postgres")); err != nil { // for its roles
		return err
	}
	return b.build(ctx)
}

// walPosition is where the next WAL record goes, in bytes.
func (b *bench) walPosition(ctx context.Context) (at int64, err error) {
	err = b.admin.QueryRow(ctx, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").Scan(&at)
	return at, err
}

func (b *bench) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if b.admin != nil {
		_ = b.admin.Close(ctx) // the server ends with it
	}
	_ = b.server.Stop(ctx) // the kernel ends what does not stop
}

// A template is a database of the host before anybody counts.
type template struct {
	name  string
	users []user
	rows  int
}

// organizations that the users belong to.
const organizations = 10

// tokensPerCall is the most that a call uses; they use half of it on average.
const tokensPerCall = 1000

// newTemplate makes users, and rows of this month that they share evenly. limit
// says what the limit of user i is, who has used so much.
func (b *bench) newTemplate(ctx context.Context, name string, users, rows int, limit func(i, used int) int) (*template, error) {
	t := &template{name: name, users: make([]user, users), rows: rows}
	if _, err := b.admin.Exec(ctx, "CREATE DATABASE "+name+" OWNER "+demo.HostRole); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, b.server.URLAs(demo.HostRole, name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := host.Apply(ctx, conn, host.CMS); err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, organizations)
	for i := range ids {
		if ids[i], err = host.NewOrganization(ctx, conn, fmt.Sprintf("School %d", i)); err != nil {
			return nil, err
		}
	}
	tokens := make([]int, rows)
	used := make([]int, users)
	for i := range tokens {
		tokens[i] = 1 + rand.IntN(tokensPerCall)
		used[i%users] += tokens[i]
	}
	for i := range t.users {
		t.users[i] = user{uuid.New(), ids[i%organizations], limit(i, used[i])}
	}
	if err := t.fill(ctx, conn, tokens); err != nil {
		return nil, fmt.Errorf("fill %s: %w", name, err)
	}
	_, err = conn.Exec(ctx, "VACUUM ANALYZE")
	return t, err
}

func (t *template) fill(ctx context.Context, conn *pgx.Conn, tokens []int) error {
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"users"},
		[]string{"id", "organization_id", "email", "password_hash", "full_name", "monthly_token_limit"},
		pgx.CopyFromSlice(len(t.users), func(i int) ([]any, error) {
			u := t.users[i]
			return []any{u.id, u.organization, u.id.String() + "@example.org", "none", "Ada Example", u.limit}, nil
		})); err != nil {
		return err
	}
	now := time.Now().UTC()
	month := now.Sub(time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC))
	return logCalls(ctx, conn, len(tokens), func(i int) (user, int, time.Time) {
		return t.users[i%len(t.users)], tokens[i], now.Add(-time.Duration(rand.Int64N(int64(month))))
	})
}

// logCalls logs calls in bulk, as rows like those of log_ai_usage.
func logCalls(ctx context.Context, conn *pgx.Conn, n int, call func(i int) (user, int, time.Time)) error {
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"ai_usage_logs"},
		[]string{
			"user_id", "organization_id", "tokens_used", "input_tokens", "output_tokens",
			"endpoint", "model", "request_type", "created_at", "prompt", "response",
		},
		pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			u, tokens, at := call(i)
			return []any{
				u.id, u.organization, tokens, tokens - tokens/4, tokens / 4,
				"/api/chat", "example-model", "chat", at, "What is a token?", "A piece of a word.",
			}, nil
		}))
	return err
}

// clone is a copy of a template, with the competitor installed.
func (b *bench) clone(ctx context.Context, t *template, e entry) (*database, error) {
	b.clones++
	db := &database{bench: b, entry: e, name: fmt.Sprintf("%s_%d", t.name, b.clones), users: t.users}
	db.rows.Store(int64(t.rows))
	_, err := b.admin.Exec(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s OWNER %s", db.name, t.name, demo.HostRole))
	if err != nil {
		return nil, err
	}
	if db.control, err = pgx.Connect(ctx, db.hostURL()); err != nil {
		return nil, err
	}
	if err := e.install(ctx, db); err != nil {
		return nil, fmt.Errorf("install %s: %w", e.key, err)
	}
	return db, nil
}
