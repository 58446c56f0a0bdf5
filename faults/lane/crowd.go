package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/plan"
)

// A CrowdResult is what came of many users who crossed in one transaction.
type CrowdResult struct {
	Users       int
	First, All  time.Duration   // from the commit until somebody, and everybody, was told
	Others      []time.Duration // how long users waited who crossed meanwhile, by themselves, in order
	Ticks       int
	LongestTick time.Duration
	Wrong       int // users who were not told exactly once, alerts without notification, totals that differ
}

// Crowd has so many users cross in one transaction, under the default settings,
// and others by themselves meanwhile.
func (l *Lane) Crowd(ctx context.Context, users int, said func(told int)) (*CrowdResult, error) {
	s := &site{
		lane: l, plan: &plan.Plan{Workers: 1, Bell: true, Zone: "UTC"}, database: fmt.Sprintf("crowd_%d", l.schedules.Add(1)),
		directory: l.directory(0) + "-crowd", settings: defaultSettings,
	}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, s.ownerURL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	c := &crowd{site: s, conn: conn, result: &CrowdResult{Users: users}, said: said}
	if err := c.gather(ctx); err != nil {
		return nil, fmt.Errorf("gather a crowd: %w", err)
	}
	if err := c.cross(ctx); err != nil {
		return nil, fmt.Errorf("a crowd crosses: %w", err)
	}
	if err := s.stopWorkers(); err != nil {
		return nil, err
	}
	slices.Sort(c.result.Others)
	s.readLogs()
	if !s.result.OK() {
		return nil, errors.New(strings.Join(s.result.Faults, "\n"))
	}
	c.result.Ticks, c.result.LongestTick = s.result.Events["tick.completed"], s.result.Longest
	return c.result, nil
}

type crowd struct {
	*site
	conn   *pgx.Conn // the host's
	result *CrowdResult
	said   func(told int)
}

// gather makes the users, and waits until the worker has looked at each.
func (c *crowd) gather(ctx context.Context) error {
	for _, sql := range []string{
		"DROP TRIGGER hold_committing ON notifications",
		fmt.Sprintf(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
			SELECT o.id, n || '@example.org', 'none', 'Ada Example', 100 FROM organizations o, generate_series(1, %d) AS n`, c.result.Users),
		"ANALYZE",
	} {
		if _, err := c.conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	for c.awaitLeader(ctx) {
		var corrections bool
		if err := c.control.QueryRow(ctx, "SELECT EXISTS (SELECT FROM tokenalert.recounts)").Scan(&corrections); err != nil {
			return err
		}
		if !corrections {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	return context.Cause(ctx)
}

// cross has them cross, and one more again and again until all are told.
func (c *crowd) cross(ctx context.Context) error {
	if _, err := c.conn.Exec(ctx, `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used)
		SELECT id, organization_id, 95 FROM users`); err != nil {
		return err
	}
	committed := time.Now()
	r := c.result
	for r.All == 0 {
		told, err := c.told(ctx)
		if err != nil {
			return err
		}
		if told > 0 && r.First == 0 {
			r.First = time.Since(committed)
		}
		if told == r.Users+len(r.Others) {
			r.All = time.Since(committed)
			break
		}
		c.said(told)
		waited, err := c.crossAlone(ctx)
		if err != nil {
			return err
		}
		r.Others = append(r.Others, waited)
	}
	return c.control.QueryRow(ctx, `SELECT
		  (SELECT count(*) FROM users u WHERE (SELECT count(*) FROM notifications n WHERE n.user_id = u.id) <> 1)
		+ (SELECT count(*) FROM users u WHERE (SELECT count(*) FROM token_limit_alerts a WHERE a.user_id = u.id AND a.notification_id IS NOT NULL) <> 1)
		+ (SELECT count(*) FROM users u WHERE (SELECT sum(p.tokens_used) FROM tokenalert.usage_periods p WHERE p.user_id = u.id) IS DISTINCT FROM 95)`,
	).Scan(&r.Wrong)
}

func (c *crowd) told(ctx context.Context) (int, error) {
	var n int
	err := c.control.QueryRow(ctx, "SELECT count(*) FROM notifications").Scan(&n)
	return n, err
}

// crossAlone has a new user cross, and returns how long that user waited.
func (c *crowd) crossAlone(ctx context.Context) (time.Duration, error) {
	var id uuid.UUID
	if err := c.conn.QueryRow(ctx, `WITH newcomer AS (
			INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
			SELECT id, gen_random_uuid() || '@example.org', 'none', 'Bob Example', 100 FROM organizations RETURNING id, organization_id),
		usage AS (INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT id, organization_id, 95 FROM newcomer)
		SELECT id FROM newcomer`).Scan(&id); err != nil {
		return 0, err
	}
	committed := time.Now()
	for {
		var told bool
		if err := c.control.QueryRow(ctx, "SELECT EXISTS (SELECT FROM notifications WHERE user_id = $1)", id).Scan(&told); err != nil {
			return 0, err
		}
		if told {
			return time.Since(committed), nil
		}
		if !pause(ctx, 2*time.Millisecond) {
			return 0, context.Cause(ctx)
		}
	}
}
