package store

import (
	"context"
	"fmt"
	"time"
)

// Headroom is how far the server is from refusing this role.
type Headroom struct {
	// Connections that may still be opened, before the server (max_connections),
	// the database or the role (CONNECTION LIMIT) allows no more, whichever comes
	// first.
	Connections int64
	// TransactionIDs until the server refuses to write, of transactions or of
	// multixacts, whichever are fewer (manual 25.1.5).
	TransactionIDs int64
	// NotificationQueue is how full it is, from 0 to 1. Commits that notify fail
	// where it is full, and the bell stays mute from a half on.
	NotificationQueue float64
	// PasswordExpires is when this role's password does; nil: never.
	PasswordExpires *time.Time
}

// lookAtHeadroom counts sessions by what everybody may see of them. A session
// without a role is one of the server's own; those that replicate have places of
// their own (max_wal_senders). Parallel workers look like sessions, and are
// counted. 3,000,000 ids before the last one the server refuses.
const lookAtHeadroom = `
WITH sessions AS MATERIALIZED (
	SELECT datid, usesysid FROM pg_stat_activity
	WHERE usesysid IS NOT NULL AND datid IS NOT NULL AND pid NOT IN (SELECT pid FROM pg_stat_replication)
), role AS (
	SELECT oid, rolconnlimit, rolsuper, rolvaliduntil FROM pg_roles WHERE rolname = session_user
), database AS (
	SELECT oid, datconnlimit FROM pg_database WHERE datname = current_database()
)
SELECT least(
           current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
           - coalesce(current_setting('reserved_connections', true)::bigint, 0) - (SELECT count(*) FROM sessions),
           CASE WHEN datconnlimit >= 0 THEN datconnlimit - (SELECT count(*) FROM sessions s WHERE s.datid = database.oid) END,
           CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit - (SELECT count(*) FROM sessions s WHERE s.usesysid = role.oid) END),
       (SELECT 2147483647 - 3000000 - max(greatest(age(datfrozenxid), mxid_age(datminmxid))) FROM pg_database),
       pg_notification_queue_usage(),
       CASE WHEN isfinite(rolvaliduntil) THEN rolvaliduntil END
FROM role, database`

// Headroom looks how far the server is from refusing this role. One statement.
func (s *Store) Headroom(ctx context.Context) (Headroom, error) {
	var h Headroom
	err := s.pool.QueryRow(ctx, lookAtHeadroom).Scan(&h.Connections, &h.TransactionIDs, &h.NotificationQueue, &h.PasswordExpires)
	if err != nil {
		return h, fmt.Errorf("look at what the server still allows: %w", tickError(err))
	}
	return h, nil
}
