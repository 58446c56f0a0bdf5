package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/internal/privatepg"
)

// The roles of the cluster. Each may log in; none is a superuser or has a
// right beyond what the tests grant it.
const (
	// Owner owns each database, its schema public and the host's tables, and
	// runs the migrations.
	Owner = "host_owner"
	// Runtime is for the worker.
	Runtime = "tokenalert_runtime"
	// Writer is for the host's inserts.
	Writer = "host_writer"
)

var roles = []string{Owner, Runtime, Writer}

// adminWithin bounds a statement that creates or drops a database.
const adminWithin = time.Minute

// Instance is a server with the roles, and its templates.
type Instance struct {
	server *privatepg.Server
	pooler *privatepg.Pooler // nil where workers go straight to the server
	// A disposable server takes its databases with it. Nobody drops them, and
	// so the test may leave the server crashed.
	disposable bool

	mu        sync.Mutex
	templates map[string]*template

	clones atomic.Int64
}

func newInstance(ctx context.Context, o privatepg.Options) (*Instance, error) {
	o.BinDir = os.Getenv("PGTEST_BIN")
	server, err := privatepg.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	in := &Instance{server: server, templates: make(map[string]*template)}
	for _, role := range roles {
		if err := in.admin(ctx, "postgres", "CREATE ROLE "+role+" LOGIN"); err != nil {
			return nil, errors.Join(fmt.Errorf("create role %s: %w", role, err), server.Stop(ctx))
		}
	}
	if program := os.Getenv(poolerEnv); program != "" {
		if in.pooler, err = startPooler(ctx, server, program, map[string]string{"pool_mode": "transaction"}); err != nil {
			return nil, errors.Join(err, server.Stop(ctx))
		}
	}
	return in, nil
}

// Server returns the instance's server.
func (in *Instance) Server() *privatepg.Server { return in.server }

// admin runs statements as the superuser, each in a transaction of its own, on
// a connection of their own, so that a restarted server is no special case.
func (in *Instance) admin(ctx context.Context, db string, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, adminWithin)
	defer cancel()
	conn, err := pgx.Connect(ctx, in.server.URL(db))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}
