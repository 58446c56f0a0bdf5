package store

import (
	"context"
	"fmt"
)

// holdsAdvisoryLock holds for l, a row of pg_locks, of whoever has the advisory
// lock $1 in this database. The key is shown in two halves (manual 54.12).
const holdsAdvisoryLock = `l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
	AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.classid = ($1::bigint >> 32)::oid AND l.objid = ($1::bigint & 4294967295)::oid`

// Led reports whether somebody leads in this database.
func (s *Store) Led(ctx context.Context) (bool, error) {
	var led bool
	err := s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks l WHERE "+holdsAdvisoryLock+")", int64(leadKey)).Scan(&led)
	if err != nil {
		return false, fmt.Errorf("look for the leader: %w", err)
	}
	return led, nil
}
