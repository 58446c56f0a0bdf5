package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"tokenalert/migrations"
)

// Server is what the worker needs to know of the server that it is connected to.
type Server struct {
	VersionNum           int // as server_version_num: 150018
	PreparedTransactions bool
	SchemaVersion        int64
}

// Check refuses what a worker must not tick on: a standby (ErrReadOnly), a
// schema that this binary does not know (ErrSchema), a chain from another
// cluster or usage rows with transaction ids from one (ErrForeignChain).
func (s *Store) Check(ctx context.Context) (Server, error) {
	var server Server
	var recovery, readOnly bool
	err := s.pool.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::integer, current_setting('max_prepared_transactions') <> '0', pg_is_in_recovery(),
		       current_setting('transaction_read_only') = 'on'`).
		Scan(&server.VersionNum, &server.PreparedTransactions, &recovery, &readOnly)
	switch code := SQLState(err); {
	case code == codeDuplicatePrepared || code == codeUnknownPrepared:
		return server, fmt.Errorf("a pooler hands our session to others (PgBouncer in transaction mode?); set TOKENALERT_LISTEN_URL to the server's own address: %w", err)
	case err != nil:
		return server, fmt.Errorf("look at the server: %w", advised("DATABASE_URL", err))
	}
	switch {
	case recovery:
		return server, ErrInRecovery
	case readOnly:
		return server, fmt.Errorf("%w: default_transaction_read_only is on for this role, database or server", ErrReadOnly)
	}
	version, err := schemaVersion(ctx, s.pool)
	switch want := migrations.Version(); {
	case SQLState(err) == codePrivilege:
		return server, fmt.Errorf("%w: %w", ErrSchema, s.refused(ctx, err))
	case err != nil:
		return server, err
	case version == 0:
		return server, errNotInstalled
	case version < want:
		return server, fmt.Errorf("%w: the database has version %d and this binary needs %d; run `tokenalert migrate up`", ErrSchema, version, want)
	case version > want+1:
		return server, fmt.Errorf("%w: the database has version %d and this binary knows %d (one ahead is all right); run a newer binary", ErrSchema, version, want)
	}
	server.SchemaVersion = version
	if err := s.checkIndex(ctx); err != nil {
		return server, err
	}
	return server, s.checkChain(ctx)
}

// errNotInstalled means that there is no schema of ours.
var errNotInstalled = fmt.Errorf("%w: tokenalert is not installed in this database; run `tokenalert migrate up` as the owner of ai_usage_logs", ErrSchema)

// Installed refuses a database without our schema (ErrSchema). It is for
// commands that only look, which are content with a schema of another version
// and with a standby.
func (s *Store) Installed(ctx context.Context) error {
	path, err := readSearchPath(ctx, s.pool)
	if err != nil {
		return fmt.Errorf("look at the search_path: %w", advised("DATABASE_URL", err))
	}
	if err := path.refuse(); err != nil {
		return err
	}
	version, err := schemaVersion(ctx, s.pool)
	if err == nil && version == 0 {
		return errNotInstalled
	}
	return s.refused(ctx, err)
}

// refused adds to an error for want of a privilege (42501) which role lacks it,
// and what gives it. Any other error it returns as it is.
func (s *Store) refused(ctx context.Context, err error) error {
	if SQLState(err) != codePrivilege {
		return err
	}
	role := "ROLE"
	if asked := s.pool.QueryRow(ctx, "SELECT quote_ident(current_user)").Scan(&role); asked != nil {
		return err
	}
	return fmt.Errorf("role %s lacks a privilege; run `tokenalert migrate grant %s` as the owner of ai_usage_logs: %w", role, role, err)
}

// checkIndex refuses to tick without the index: each tick would read the table.
func (s *Store) checkIndex(ctx context.Context) error {
	var valid, found bool
	var path, schema string
	err := s.pool.QueryRow(ctx, `SELECT (`+indexIsValid+`), to_regclass('ai_usage_logs') IS NOT NULL, current_setting('search_path'),
		coalesce((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('ai_usage_logs')), '')`).
		Scan(&valid, &found, &path, &schema)
	switch {
	case err != nil:
		return fmt.Errorf("look for the index on ai_usage_logs.xact_id: %w", err)
	case !found:
		return fmt.Errorf("%w: this role does not see the table ai_usage_logs; its search_path is %s, and it needs USAGE on the table's schema (`tokenalert migrate grant ROLE`)", ErrSchema, path)
	case !valid:
		return fmt.Errorf("%w: the index on ai_usage_logs (xact_id) in schema %s is missing or invalid; run `tokenalert migrate up`, which builds it again, or correct this role's search_path if that is not the host's schema", ErrSchema, schema)
	}
	return nil
}

// indexIsValid reports whether ai_usage_logs has a valid index of ours.
const indexIsValid = `
SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	WHERE i.indrelid = to_regclass('ai_usage_logs') AND c.relname = 'ai_usage_logs_xact_id_idx' AND i.indisvalid)`

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (s *Store) checkChain(ctx context.Context) error { return checkChain(ctx, s.pool) }

// checkChain compares the chain and the usage rows with the cluster. A row that
// we can see and whose id the server has not given out yet came from elsewhere.
func checkChain(ctx context.Context, db querier) error {
	var foreign bool
	err := db.QueryRow(ctx, chainIsForeign).Scan(&foreign)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || err == nil && !foreign:
		return nil
	case err == nil:
		return ErrForeignChain
	}
	return fmt.Errorf("check the chain: %w", err)
}

// chainIsForeign reports whether checkChain is to refuse.
const chainIsForeign = `
SELECT coalesce((SELECT t.system_identifier <> c.system_identifier OR pg_snapshot_xmax(t.snapshot) > pg_snapshot_xmax(pg_current_snapshot())
                 FROM tokenalert.ticks t, pg_control_system() c ORDER BY t.id DESC LIMIT 1), false)
    OR coalesce((SELECT xact_id FROM ai_usage_logs WHERE xact_id IS NOT NULL ORDER BY xact_id DESC LIMIT 1)
                >= pg_snapshot_xmax(pg_current_snapshot()), false)`
