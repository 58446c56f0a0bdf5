package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// indexProgress says what the building of the index does (manual 28.4.2): how
// many blocks it has read, or in its waiting phases which session it waits for.
func indexProgress(ctx context.Context, conn *pgx.Conn) (string, error) {
	var (
		phase                               string
		blocks, blocksTotal, gone, sessions int64
		locker                              otherSession
	)
	err := conn.QueryRow(ctx, `
		SELECT p.phase, p.blocks_done, p.blocks_total, p.lockers_done, p.lockers_total, `+otherSessionColumns+`
		FROM pg_stat_progress_create_index p LEFT JOIN pg_stat_activity a ON a.pid = p.current_locker_pid
		WHERE p.relid = to_regclass('ai_usage_logs') AND p.datname = current_database()`).
		Scan(append([]any{&phase, &blocks, &blocksTotal, &gone, &sessions}, locker.destinations()...)...)
	switch {
	case err != nil:
		return "", fmt.Errorf("look how far the index is: %w", err)
	case !strings.HasPrefix(phase, "waiting"):
		return fmt.Sprintf("%s, %d of %d blocks", phase, blocks, blocksTotal), nil
	case locker.pid == 0: // it has gone, or is a prepared transaction, which has no session
		return fmt.Sprintf("%s, %d of %d ended", phase, gone, sessions), nil
	}
	return fmt.Sprintf("%s, %d of %d ended; now for %s", phase, gone, sessions, &locker), nil
}

// neverUnlocked says whose migration it was that did not end in time.
func (m *Migrator) neverUnlocked(ctx context.Context, conn *pgx.Conn) error {
	var holder otherSession
	err := conn.QueryRow(ctx, `SELECT `+otherSessionColumns+`
		FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid WHERE `+holdsAdvisoryLock, int64(migrateKey)).Scan(holder.destinations()...)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("another migration ran for %s and has ended just now; run the same command again", m.LockPatience)
	case err != nil:
		return fmt.Errorf("look who holds the migration lock: %w", err)
	}
	return fmt.Errorf("another migration has not ended in %s; %s runs it: wait for it with a longer --lock-patience, or end it with SELECT pg_terminate_backend(%d)",
		m.LockPatience, &holder, holder.pid)
}
