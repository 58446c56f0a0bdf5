package store

import (
	"context"
	"fmt"
)

// Led reports whether somebody leads in this database: holds the lead's
// advisory lock, whose key pg_locks shows in two halves (manual 54.12).
func (s *Store) Led(ctx context.Context) (bool, error) {
	var led bool
	err := s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND classid = ($1::bigint >> 32)::oid AND objid = ($1::bigint & 4294967295)::oid)`, int64(leadKey)).Scan(&led)
	if err != nil {
		return false, fmt.Errorf("look for the leader: %w", err)
	}
	return led, nil
}
