package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/internal/child"
)

// pgq is PgQ's queue: a trigger puts an event into it for each row, pgqd cuts it
// into batches, a consumer counts each batch.
type pgq struct{}

// build asks for the extension on the server that is used, and for pgqd.
func (pgq) build(ctx context.Context, b *bench) (map[string]string, error) {
	var version *string
	err := b.admin.QueryRow(ctx, "SELECT max(default_version) FROM pg_available_extensions WHERE name = 'pgq'").Scan(&version)
	if err != nil {
		return nil, err
	}
	if version == nil {
		return nil, missing{fmt.Sprintf("the server has no extension pgq: install postgresql-%d-pgq3 and pgqd, as Debian names them", b.server.Version()/10_000)}
	}
	if _, err := exec.LookPath(pgqd); err != nil {
		return nil, missing{"there is no pgqd in PATH: install the package of that name"}
	}
	return map[string]string{"PgQ": *version}, nil
}

const (
	pgqd     = "pgqd"
	pgqdIni  = "PGQD_INI"            // names the file of its settings
	pgqdWork = "pgq version ok"      // in its log, before the first tick
	pgqPoll  = 10 * time.Millisecond // pause after finding no batch
)

// pgqdSettings has pgqd look a hundred times a second whether a tick is due, and
// at one database only.
const pgqdSettings = `[pgqd]
base_connstr = host=%s port=%d user=%s
database_list = %s
syslog = 0
ticker_period = 0.01
`

func (pgq) install(ctx context.Context, db *database) error {
	super, err := pgx.Connect(ctx, db.server.URL(db.name))
	if err != nil {
		return err
	}
	defer func() { _ = super.Close(ctx) }()
	if err := script(ctx, super, "pgq_queue"); err != nil {
		return err
	}
	c := super.Config()
	if err := os.WriteFile(db.pgqdIni(), fmt.Appendf(nil, pgqdSettings, c.Host, c.Port, c.User, db.name), 0o644); err != nil {
		return err
	}
	return db.tellable(ctx, "totals", "pgq")
}

func (db *database) pgqdIni() string { return filepath.Join(db.scratch, db.name+".ini") }

func (pgq) worker(db *database) *exec.Cmd {
	cmd := ourWorker("pgq", db.hostURL())
	cmd.Env = append(cmd.Env, pgqdIni+"="+db.pgqdIni())
	return cmd
}

func (pgq) ready() string { return pgqdWork }

// drained waits for the events of those who have committed by now: each has to
// be in the snapshot of the last tick that the consumer has finished.
// Transactions below the snapshot's xmin all are.
func (pgq) drained(ctx context.Context, db *database) (bool, error) {
	return db.reached(ctx, "SELECT txid_snapshot_xmax(txid_current_snapshot())", `
		SELECT NOT EXISTS (
			SELECT FROM pgq.subscription s
			JOIN pgq.tick t ON t.tick_queue = s.sub_queue AND t.tick_id = s.sub_last_tick
			JOIN pgq.event_template e ON e.ev_txid >= txid_snapshot_xmin(t.tick_snapshot) AND e.ev_txid < $1
			WHERE NOT txid_visible_in_snapshot(e.ev_txid, t.tick_snapshot))`)
}

// countBatch counts the events of a batch.
const countBatch = `
	WITH taken AS (
		SELECT ev_type::uuid AS user_id, ev_data::integer AS tokens, ev_extra1::timestamptz AS created_at
		FROM pgq.get_batch_events($1)
	), ` + addUp + tellCrossings + `
	SELECT count(*) FROM told`

// runPgQ is the consumer, and has pgqd as its child.
func runPgQ(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	cmd := exec.Command(pgqd, os.Getenv(pgqdIni))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	ticker, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	defer func() {
		_ = ticker.Cmd.Process.Signal(os.Interrupt) // it may have ended
		<-ticker.Done
	}()
	for {
		found, err := takeNextBatch(ctx, conn)
		if err != nil {
			return err
		}
		if found {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.Done:
			return errors.Join(errors.New("pgqd ended by itself"), ticker.Err)
		case <-time.After(pgqPoll):
		}
	}
}

// nextBatch has all ticks there are in one batch where the consumer is behind: of
// a batch that covers at least half of the time since the last tick that is done,
// PgQ takes the newest tick. Where the newest is older, it is the next tick's turn.
const nextBatch = `
	SELECT coalesce((SELECT batch_id FROM pgq.get_consumer_info('usage', 'alerts') AS c,
	                 pgq.next_batch_custom('usage', 'alerts', NULL, NULL, c.lag / 2)),
	                pgq.next_batch('usage', 'alerts'))`

// takeNextBatch counts a batch and finishes it in one transaction, so that it
// is counted once.
func takeNextBatch(ctx context.Context, conn *pgx.Conn) (found bool, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var batch *int64
		if err := tx.QueryRow(ctx, nextBatch).Scan(&batch); err != nil || batch == nil {
			return err
		}
		found = true
		var told int64
		if err := tx.QueryRow(ctx, countBatch, batch).Scan(&told); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT pgq.finish_batch($1)", batch)
		return err
	})
	return found, err
}
