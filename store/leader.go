package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Leader is the session that holds the lead.
type Leader struct {
	PID     int        `json:"pid"`
	Session string     `json:"session"` // its application_name
	Worker  string     `json:"worker"`  // the end of its name, as much as that holds
	Since   *time.Time `json:"since"`   // to the second; nil where a pooler hides it
}

// Leader returns who leads in this database, nil where nobody does.
func (s *Store) Leader(ctx context.Context) (*Leader, error) {
	rows, err := s.pool.Query(ctx, leadSessions, leadSessionsOf...)
	if err != nil {
		return nil, fmt.Errorf("look for the leader: %w", err)
	}
	leader, _, err := collectLead(rows)
	if err != nil {
		return nil, fmt.Errorf("look for the leader: %w", err)
	}
	return leader, nil
}

// holdsAdvisoryLock holds for l, a row of pg_locks, of whoever has the advisory
// lock $1 in this database. The key is shown in two halves (manual 54.12).
const holdsAdvisoryLock = `l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
	AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.classid = ($1::bigint >> 32)::oid AND l.objid = ($1::bigint & 4294967295)::oid`

// leadSessions are the sessions that hold the lead or wait for it. Whoever looks
// sees the locks and names of everybody (manual 28.2.3).
const leadSessions = `
SELECT a.pid, a.application_name, l.pid IS NOT NULL
FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND ` + holdsAdvisoryLock + `
WHERE a.datname = current_database() AND (starts_with(a.application_name, $2) OR l.pid IS NOT NULL)`

var leadSessionsOf = []any{int64(leadKey), appLead}

// collectLead returns who leads, and how many wait.
func collectLead(rows pgx.Rows) (leader *Leader, waiting int, err error) {
	var pid int
	var name string
	var leads bool
	_, err = pgx.ForEachRow(rows, []any{&pid, &name, &leads}, func() error {
		if leads {
			leader = newLeader(pid, name)
		} else {
			waiting++
		}
		return nil
	})
	return leader, waiting, err
}

// newLeader reads what TryAcquire wrote.
func newLeader(pid int, name string) *Leader {
	leader := &Leader{PID: pid, Session: name}
	since, worker, _ := strings.Cut(strings.TrimPrefix(name, appLead+" "), " ")
	if at, err := time.Parse(leadSince, since); err == nil {
		leader.Since, leader.Worker = &at, worker
	}
	return leader
}
