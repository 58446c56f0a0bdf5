package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// budgets is whether a count looks at budgets. Where nobody has one it does not,
// and costs what it would without them; zonesKnown says when that has changed.
//
// A row of usage belongs to the budget of its organization_id. The tokens are kept
// for each user in budget_shares and in sum in budget_periods, and every statement
// adds to both, so that the one is always the sum of the other. A correction
// counts the share of one user anew, which an index finds, and adds the difference.
type budgets bool

// organization is the column, with alias, in a list of columns.
func (b budgets) organization(alias string) string { return b.only(", " + alias + "organization_id") }

func (b budgets) only(sql string) string {
	if b {
		return sql
	}
	return ""
}

// counting are the statements that count.
type counting struct{ window, everything, wanted string }

func countingWith(b budgets) counting {
	return counting{countWindow(b), countEverything(b), countWanted(b)}
}

var withoutBudgets, withBudgets = countingWith(false), countingWith(true)

// counting is by what to count.
func (p *Periods) counting() *counting {
	if p.budgets {
		return &withBudgets
	}
	return &withoutBudgets
}

// placeOfBudget is where the bounds of b's reset day in its zone end.
const placeOfBudget = `5 * (b.reset_day + 31 * (coalesce(array_position($3::text[], b.time_zone), 1) - 1)) AS last`

// shares are what users have used of budgets, from grouped, as placed is of their
// own limits.
const shares = `,
shares AS MATERIALIZED (
	SELECT g.organization_id, g.user_id, p.period_start, p.period_end, sum(g.amount) AS amount, min(p.since) AS since
	FROM (
		SELECT g.organization_id, g.user_id, g.at, g.amount, b.since, ` + placeOfBudget + `
		FROM grouped g, LATERAL (SELECT * FROM tokenalert.budgets b WHERE b.organization_id = g.organization_id OFFSET 0) b
		WHERE g.stretch >= 0
	) g
	` + periodOfGroup + `
	WHERE p.period_start >= g.since
	GROUP BY 1, 2, 3, 4
)`

// addShares adds the window.
var addShares = shares + `,
counted_shares AS (
	INSERT INTO tokenalert.budget_shares AS s (organization_id, period_start, user_id, tokens_used)
	SELECT d.organization_id, d.period_start, d.user_id, d.amount FROM fence, shares d
	ON CONFLICT (organization_id, period_start, user_id) DO UPDATE SET tokens_used = s.tokens_used + EXCLUDED.tokens_used
),
counted_budgets AS (
	INSERT INTO tokenalert.budget_periods AS p (organization_id, period_start, period_end, tokens_used, tick_id, policy_seen)
	SELECT d.organization_id, d.period_start, d.period_end, sum(d.amount), fence.id, ` + policySeen + `
	FROM fence, shares d GROUP BY 1, 2, 3, 5
	ON CONFLICT (organization_id, period_start) DO UPDATE
		SET tokens_used = p.tokens_used + EXCLUDED.tokens_used, period_end = EXCLUDED.period_end, tick_id = EXCLUDED.tick_id
	RETURNING p.organization_id, p.period_start, p.period_end, p.tokens_used, p.marks
)` + budgetBegins(`fence, shares`, unlessKnown)

// setShares sets what a count of everything has found, and to nothing what it has
// not, of the periods that it counts.
var setShares = shares + `,
counted_shares AS (
	INSERT INTO tokenalert.budget_shares AS s (organization_id, period_start, user_id, tokens_used)
	SELECT d.organization_id, d.period_start, d.user_id, d.amount FROM fence, shares d WHERE d.period_start >= d.since
	ON CONFLICT (organization_id, period_start, user_id) DO UPDATE SET tokens_used = EXCLUDED.tokens_used
),
emptied_shares AS (
	UPDATE tokenalert.budget_shares s SET tokens_used = 0
	FROM fence, (
		SELECT s.organization_id, s.period_start, s.user_id
		FROM (SELECT b.organization_id, b.since, ` + placeOfBudget + ` FROM tokenalert.budgets b) b
		JOIN tokenalert.budget_shares s ON s.organization_id = b.organization_id
		WHERE s.tokens_used <> 0 AND ` + countedOfBudget + `
		EXCEPT SELECT organization_id, period_start, user_id FROM shares
	) e
	WHERE (s.organization_id, s.period_start, s.user_id) = (e.organization_id, e.period_start, e.user_id)
),
counted_budgets AS (
	INSERT INTO tokenalert.budget_periods AS p (organization_id, period_start, period_end, tokens_used, tick_id, policy_seen)
	SELECT d.organization_id, d.period_start, coalesce(max(d.period_end), max(d.ended)), sum(d.amount), fence.id, ` + policySeen + `
	FROM fence, (
		SELECT organization_id, period_start, period_end, NULL::timestamptz AS ended, amount FROM shares WHERE period_start >= since
		UNION ALL -- ended as it was last counted, perhaps by another calendar
		SELECT s.organization_id, s.period_start, NULL, s.period_end, 0
		FROM (SELECT b.organization_id, b.since, ` + placeOfBudget + ` FROM tokenalert.budgets b) b
		JOIN tokenalert.budget_periods s ON s.organization_id = b.organization_id
		WHERE ` + countedOfBudget + `
	) d
	GROUP BY 1, 2, 5
	ON CONFLICT (organization_id, period_start) DO UPDATE
		SET tokens_used = EXCLUDED.tokens_used, period_end = EXCLUDED.period_end, tick_id = EXCLUDED.tick_id
	RETURNING p.organization_id, p.period_start, p.period_end, p.tokens_used, p.marks
)` + budgetBegins(`fence, shares`, ``)

// countedOfBudget is whether s.period_start is one of those that a count of
// everything counts of the budget b: its previous period, its current one, and
// those ahead.
const countedOfBudget = `s.period_start >= b.since
		  AND (s.period_start = ANY (($2::timestamptz[])[b.last - 3:b.last - 1]) OR s.period_start > (SELECT at FROM here))`

// budgetBegins has a budget looked at when a period begins of which there is usage
// before, as counted.
func budgetBegins(counted, where string) string {
	return `,
budget_begins AS (
	INSERT INTO tokenalert.recounts (organization_id, at, due_at, cause)
	SELECT DISTINCT d.organization_id, d.period_start, d.period_start, 'period_begins'
	FROM (SELECT d.organization_id, d.period_start FROM here, ` + counted + ` d WHERE d.period_start > here.at OFFSET 0) d` + where + `
)`
}

// unlessKnown leaves out what an earlier tick has had looked at.
const unlessKnown = `
	WHERE NOT EXISTS (SELECT FROM tokenalert.budget_periods p
	                  WHERE p.organization_id = d.organization_id AND p.period_start = d.period_start OFFSET 0)`

// recountShares counts anew the shares that corrections are about, and adds the
// differences. began are budgets of which all that had been used before has now
// been counted: their last correction has no user (BeginBudgets). One that somebody
// is changing is not waited for; it is listed once more. Of those without
// a user, one that Reconcile asks for is about a sum that is not that of its
// shares, which no counting mends: what it lacks is added.
var recountShares = `,
began AS (
	UPDATE tokenalert.budgets b SET counted = true
	WHERE b.organization_id = ANY (ARRAY(
		SELECT b.organization_id FROM (SELECT * FROM taken WHERE budget_version IS NOT NULL OFFSET 0) t, LATERAL (
			SELECT b.organization_id FROM tokenalert.budgets b
			WHERE b.organization_id = t.organization_id AND b.version = t.budget_version FOR UPDATE SKIP LOCKED
		) b))
	RETURNING b.organization_id
),
wanted_shares AS MATERIALIZED (
	SELECT DISTINCT g.organization_id, g.user_id, p.period_start, p.period_end
	FROM (
		SELECT t.organization_id, t.user_id, t.at, b.since, ` + placeOfBudget + `
		FROM taken t, LATERAL (SELECT * FROM tokenalert.budgets b WHERE b.organization_id = t.organization_id OFFSET 0) b
		WHERE t.counts AND t.user_id IS NOT NULL AND t.at >= '2000-01-01 00:00+00' AND t.at < '2100-01-01 00:00+00'
	) g
	` + periodOfGroup + `
	WHERE p.period_start >= g.since
),
recounted_shares AS MATERIALIZED (
	SELECT d.*, l.tokens, coalesce((
		SELECT s.tokens_used FROM tokenalert.budget_shares s
		WHERE s.organization_id = d.organization_id AND s.period_start = d.period_start AND s.user_id = d.user_id OFFSET 0), 0) AS before
	FROM tick, wanted_shares d, LATERAL ( -- by the index of users, not by that of organizations
		SELECT coalesce(sum(u.tokens_used) FILTER (WHERE u.organization_id = d.organization_id), 0) AS tokens FROM ai_usage_logs u
		WHERE u.user_id = d.user_id AND u.created_at >= d.period_start AND u.created_at < d.period_end
		  AND (u.xact_id IS NULL OR pg_visible_in_snapshot(u.xact_id, tick.snapshot))
	) l
),
counted_shares AS (
	INSERT INTO tokenalert.budget_shares AS s (organization_id, period_start, user_id, tokens_used)
	SELECT d.organization_id, d.period_start, d.user_id, d.tokens FROM recounted_shares d WHERE d.tokens <> d.before
	ON CONFLICT (organization_id, period_start, user_id) DO UPDATE SET tokens_used = EXCLUDED.tokens_used
),
added_up AS ( -- both sides as they were before what is counted here
	SELECT d.*, coalesce((
		SELECT sum(s.tokens_used) FROM tokenalert.budget_shares s
		WHERE s.organization_id = d.organization_id AND s.period_start = d.period_start), 0) - coalesce((
		SELECT s.tokens_used FROM tokenalert.budget_periods s
		WHERE s.organization_id = d.organization_id AND s.period_start = d.period_start), 0) AS lacking
	FROM (
		SELECT DISTINCT g.organization_id, p.period_start, p.period_end
		FROM (
			SELECT t.organization_id, t.at, ` + placeOfBudget + `
			FROM taken t, LATERAL (SELECT * FROM tokenalert.budgets b WHERE b.organization_id = t.organization_id OFFSET 0) b
			WHERE t.user_id IS NULL AND t.cause = '` + CauseReconcile + `'
		) g
		` + periodOfGroup + `
	) d
),
counted_budgets AS (
	INSERT INTO tokenalert.budget_periods AS p (organization_id, period_start, period_end, tokens_used, tick_id, policy_seen)
	SELECT d.organization_id, d.period_start, max(d.period_end), sum(d.more), tick.id, ` + policySeen + `
	FROM tick, (
		SELECT organization_id, period_start, period_end, tokens - before AS more FROM recounted_shares
		UNION ALL
		SELECT organization_id, period_start, period_end, lacking FROM added_up
	) d GROUP BY 1, 2, 5
	ON CONFLICT (organization_id, period_start) DO UPDATE
		SET tokens_used = p.tokens_used + EXCLUDED.tokens_used, period_end = EXCLUDED.period_end, tick_id = EXCLUDED.tick_id
	RETURNING p.organization_id, p.period_start, p.period_end, p.tokens_used, p.marks
),
asked AS MATERIALIZED (
	SELECT DISTINCT g.organization_id, p.period_start
	FROM (
		SELECT t.organization_id, t.at, ` + placeOfBudget + `
		FROM (
			SELECT organization_id, at FROM taken WHERE user_id IS NULL AND at IS NOT NULL AND NOT counts
			UNION
			SELECT organization_id, here.at FROM taken, here WHERE user_id IS NULL -- as of users
		) t, LATERAL (SELECT * FROM tokenalert.budgets b WHERE b.organization_id = t.organization_id OFFSET 0) b
	) g
	` + periodOfGroup + `
),
decidable AS ( -- sorted, not joined: as counted, and else as it was
	SELECT DISTINCT ON (organization_id, period_start) organization_id, period_start, period_end, tokens_used, marks
	FROM (
		SELECT *, true AS counted FROM counted_budgets
		UNION ALL
		SELECT p.* FROM asked a, LATERAL (
			SELECT p.organization_id, p.period_start, p.period_end, p.tokens_used, p.marks, false FROM tokenalert.budget_periods p
			WHERE p.organization_id = a.organization_id AND p.period_start = a.period_start OFFSET 0
		) p
	) both_sides
	ORDER BY organization_id, period_start, counted DESC
)` + budgetBegins(`recounted_shares`, ``)

// budgetCandidateColumns are candidateColumns of c, a row of budget_periods, and
// b, its budget: of nobody, and an organization.
const budgetCandidateColumns = `
	NULL::uuid, c.organization_id, NULL::text, NULL::text, c.period_start, c.period_end,
	greatest(least(c.tokens_used, 9223372036854775807), -9223372036854775808)::bigint, b.token_limit, c.marks, NULL::timestamptz,
	ARRAY(SELECT DISTINCT t.alert_threshold
	      FROM (SELECT * FROM tokenalert.budget_alerts t -- by its key, and not by the time
	            WHERE t.organization_id = c.organization_id AND t.period_start > c.period_start - interval '32 days'
	              AND t.token_limit = b.token_limit OFFSET 0) t
	      WHERE t.alert_sent AND t.period_start <> c.period_start AND t.created_at >= c.period_start AND t.created_at < c.period_end),
	p.*`

// budgetOfCandidate looks up b, the budget of c, and p, the policy that set it and
// counts for it. Of a budget of which not all is counted nobody is told yet.
var budgetOfCandidate = budgetOf(`b.counted`)

func budgetOf(decidable string) string {
	return `LATERAL (
		SELECT * FROM tokenalert.budgets b WHERE b.organization_id = c.organization_id AND ` + decidable + ` OFFSET 0
	) b, LATERAL (
		SELECT o.thresholds, CASE WHEN o.version > x.seen THEN o.version END AS stale,
		       CASE WHEN o.version > x.seen THEN b.added ELSE '{}' END AS added,
		       b.time_zone, NULL::text AS language, o.language AS organization_language, o.channels,
		       coalesce(o.muted_until > tokenalert.now(), false) AS muted, 0 AS admins_from
		FROM (SELECT (SELECT s.policy_seen FROM tokenalert.budget_periods s
		              WHERE s.organization_id = c.organization_id AND s.period_start = c.period_start) AS seen) x
		LEFT JOIN tokenalert.policies o ON o.organization_id = c.organization_id
		OFFSET 0
	) p`
}

// writeBudgetDecisions is writeDecisions of budgets. Nothing of the host's is
// locked: an organization that is being deleted takes nothing with it that others
// need.
const writeBudgetDecisions = `WITH
alerts AS MATERIALIZED (
	SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::bigint[],
		$7::bigint[], $8::bigint[], $9::text[], $10::uuid[], $11::integer[])
	AS a (id, organization_id, period_start, period_end, threshold, token_limit, tokens_used, percent_tenths, reason, notification_id, admins)
),
inserted AS (
	INSERT INTO tokenalert.budget_alerts (id, organization_id, alert_threshold, alert_sent, created_at, period_start, period_end,
		token_limit, tokens_used, percent_used, reason, admins_told, notification_id, tick_id)
	SELECT a.id, a.organization_id, a.threshold, a.reason = '', $12::timestamptz, a.period_start, a.period_end,
	       a.token_limit, a.tokens_used, a.percent_tenths / 10.0, nullif(a.reason, ''), a.admins, a.notification_id, $13::bigint
	FROM alerts a
	ON CONFLICT (organization_id, period_start, alert_threshold, token_limit) DO NOTHING
	RETURNING id
),
notices AS MATERIALIZED (
	SELECT n.id, a.organization_id, n.user_id, n.title, n.body, n.link
	FROM unnest($14::uuid[], $15::uuid[], $16::uuid[], $17::text[], $18::text[], $19::text[]) AS n (id, alert_id, user_id, title, body, link)
	JOIN inserted i ON i.id = n.alert_id JOIN alerts a ON a.id = n.alert_id
),
told AS (
	INSERT INTO notifications (id, organization_id, user_id, title, message, notification_type, link_url)
	SELECT id, organization_id, user_id, title, body, 'token_limit_alert', link FROM notices
	RETURNING 1 -- reads no column, which the role may not
),
marked AS (
	UPDATE tokenalert.budget_periods p SET marks = m.marks::integer[], policy_seen = greatest(p.policy_seen, m.seen)
	FROM unnest($20::uuid[], $21::timestamptz[], $22::text[], $23::bigint[]) AS m (organization_id, period_start, marks, seen)
	WHERE p.organization_id = m.organization_id AND p.period_start = m.period_start
)
SELECT ARRAY(SELECT id FROM inserted),
       -- As in writeDecisions.
       (SELECT CASE WHEN n > 0 THEN (n || ' ` + swallowed + `')::integer END
        FROM (SELECT (SELECT count(*) FROM notices) - (SELECT count(*) FROM told) AS n OFFSET 0 /* once */) dropped)`

func queueBudgetDecisions(batch *pgx.Batch, result *TickResult, decisions []Decision) {
	var (
		ids, orgs, notifications, markOrgs uuids
		starts, ends, markStarts           []time.Time
		thresholds, admins                 []int32
		limits, used, tenths, seen         []int64
		reasons, marks                     []string
		noticeIDs, noticeAlerts, told      uuids
		titles, bodies, links              []string
	)
	for _, d := range decisions {
		markOrgs, markStarts = append(markOrgs, d.OrganizationID), append(markStarts, d.PeriodStart)
		marks, seen = append(marks, arrayLiteral(d.Marks)), append(seen, d.PolicySeen)
		for _, a := range d.Alerts {
			ids, orgs, notifications = append(ids, a.ID), append(orgs, d.OrganizationID), append(notifications, a.NotificationID)
			starts, ends = append(starts, d.PeriodStart), append(ends, a.PeriodEnd)
			thresholds, admins = append(thresholds, a.Threshold), append(admins, int32(len(a.Admins))) //nolint:gosec // 100 at most
			limits, used, tenths = append(limits, a.TokenLimit), append(used, a.TokensUsed), append(tenths, a.PercentTenths)
			reasons = append(reasons, a.Reason)
			for _, n := range a.Admins {
				noticeIDs, noticeAlerts, told = append(noticeIDs, n.ID), append(noticeAlerts, a.ID), append(told, n.UserID)
				titles, bodies, links = append(titles, n.Title), append(bodies, n.Body), append(links, a.Link)
			}
		}
	}
	batch.Queue(writeBudgetDecisions, ids, orgs, starts, ends, thresholds, limits, used, tenths, reasons, notifications, admins,
		result.Now, result.ID, noticeIDs, noticeAlerts, told, titles, bodies, links, markOrgs, markStarts, marks, seen).
		QueryRow(func(row pgx.Row) error {
			var inserted []uuid.UUID
			if err := row.Scan(&inserted, nil); err != nil {
				return fmt.Errorf("write decisions on budgets: %w", droppedError(err))
			}
			result.addOutcomes(decisions, inserted, nil)
			return nil
		})
}

// beginKey is the advisory lock under which one worker at a time lists who has
// used of a budget ("tokenalb").
const beginKey = 0x746f6b656e616c62

// BeginBudgets puts on the list of corrections, for each budget of which not all is
// counted yet, whoever has used of it since its period began, and behind them the
// budget itself: the tick that takes that has counted all of them.
//
// Nothing is missed. Ticks add up what is new as soon as they see the budget. What
// committed before the look here, which sees it too, is found by it; what commits
// later is new to a tick that sees the budget.
//
// It reads all rows of the organization, and holds up no tick. It returns how many
// corrections there are now, and is to be called again after an error.
func (s *Store) BeginBudgets(ctx context.Context) (int64, error) {
	var total int64
	for {
		var queued int64
		done := false
		err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			var err error
			queued, done, err = beginBudget(ctx, tx)
			return err
		})
		total += queued
		if err != nil {
			return total, fmt.Errorf("count what was used of a budget: %w", s.refused(ctx, tickError(err)))
		}
		if done {
			return total, nil
		}
	}
}

var (
	// errBudgetChanged has what was listed of the budget forgotten.
	errBudgetChanged = errors.New("the budget has changed meanwhile")
	// errBeginsElsewhere has it tried again: who is at it may die over it.
	errBeginsElsewhere = errors.New("another worker is at it")
)

func beginBudget(ctx context.Context, tx pgx.Tx) (queued int64, done bool, err error) {
	var mine bool
	// Of a worker that is gone the server notices it within a while, as in begin: the
	// next leader waits for the lock.
	err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1) FROM (SELECT set_config('row_security', 'off', true),
		set_config('statement_timeout', '30min', true), set_config('lock_timeout', '1s', true), set_config('jit', 'off', true),
		`+noTransactionTimeout+`, CASE WHEN version() LIKE '%linux%' THEN set_config('client_connection_check_interval', '10s', true) END) s`,
		int64(beginKey)).Scan(&mine)
	if err == nil && !mine {
		err = errBeginsElsewhere
	}
	if err != nil {
		return 0, false, err
	}
	var b struct {
		organization uuid.UUID
		since        time.Time
		day          int32
		zone         string
		version      int64
	}
	err = tx.QueryRow(ctx, `
		SELECT organization_id, since, reset_day, CASE WHEN time_zone = settings.zone OR (SELECT known FROM (`+otherZones+`) z WHERE z.time_zone = b.time_zone)
			THEN time_zone ELSE settings.zone END, version -- as ticks do
		FROM tokenalert.budgets b, (SELECT coalesce((SELECT time_zone FROM tokenalert.settings), 'UTC') AS zone OFFSET 0) settings
		WHERE NOT counted AND NOT EXISTS (SELECT FROM tokenalert.recounts r WHERE r.organization_id = b.organization_id AND r.budget_version = b.version)
		LIMIT 1`).Scan(&b.organization, &b.since, &b.day, &b.zone, &b.version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, true, nil
	}
	if err != nil {
		return 0, false, err
	}
	// Also who had used of it when it was last in force, and whose rows are gone.
	// Once for each period: nearly all rows are of the first one, and only for others
	// is the calendar asked.
	tag, err := tx.Exec(ctx, `
		INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause)
		SELECT DISTINCT user_id, $1::uuid, CASE WHEN at < ended THEN $2::timestamptz ELSE tokenalert.period_start($3, $4, at) END, 'budget_begins'
		FROM (SELECT tokenalert.period_end($3, $4, $2) AS ended OFFSET 0) first, (
			SELECT user_id, created_at AS at FROM ai_usage_logs
			WHERE organization_id = $1 AND created_at >= $2 AND created_at < '2100-01-01 00:00+00' AND user_id IS NOT NULL
			UNION ALL
			SELECT user_id, period_start FROM tokenalert.budget_shares WHERE organization_id = $1 AND period_start >= $2
		) used`, b.organization, b.since, b.day, b.zone)
	if err != nil {
		return 0, false, err
	}
	// Last, so that whoever changes it does not wait for the look. One that was
	// removed and set again meanwhile is another, though it looks the same: ticks
	// have left out what came in between.
	last, err := tx.Exec(ctx, `
		WITH same AS MATERIALIZED (
			SELECT organization_id, since, version FROM tokenalert.budgets WHERE organization_id = $1 AND version = $2 AND NOT counted FOR UPDATE
		)
		INSERT INTO tokenalert.recounts (organization_id, at, cause, budget_version) SELECT organization_id, since, 'budget_begins', version FROM same`,
		b.organization, b.version)
	if err == nil && last.RowsAffected() == 0 {
		err = errBudgetChanged
	}
	return tag.RowsAffected() + last.RowsAffected(), false, err
}
