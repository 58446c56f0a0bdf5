package store

// window is the difference of two snapshots: what has committed since the tick
// before. It yields ranges (the transaction ids from the last snapshot's xmax
// up, read between the ids that still run, not across them, so that an open
// bulk load is not walked over) and ended (what ran then and has ended since).
//
// Corrections are found by their id, all of which are above 0: the table keeps
// the pages of the most that ever waited, and is not to be read in full.
const window = `
last AS MATERIALIZED (
	SELECT id, snapshot, system_identifier FROM tokenalert.ticks ORDER BY id DESC LIMIT 1
),
here AS MATERIALIZED (
	SELECT pg_current_snapshot() AS snapshot, tokenalert.now() AS at,
	       (SELECT system_identifier FROM pg_control_system()) AS system_identifier
),
running AS MATERIALIZED (
	SELECT xid FROM here, pg_snapshot_xip(here.snapshot) AS xid
),
ranges AS MATERIALIZED (
	SELECT (point + 1)::text::xid8 AS lo, next::text::xid8 AS hi
	FROM (
		SELECT point, lead(point) OVER (ORDER BY point) AS next
		FROM (
			SELECT pg_snapshot_xmax(last.snapshot)::text::bigint - 1 AS point FROM last
			UNION ALL
			SELECT xid::text::bigint FROM running, last WHERE xid >= pg_snapshot_xmax(last.snapshot)
			UNION ALL
			SELECT pg_snapshot_xmax(here.snapshot)::text::bigint FROM here
		) points
	) gaps
	WHERE next > point + 1
	ORDER BY point
),
ended AS MATERIALIZED (
	SELECT xid FROM last, pg_snapshot_xip(last.snapshot) AS xid
	WHERE NOT EXISTS (SELECT FROM running r WHERE r.xid = xid.xid)
),
due AS MATERIALIZED (
	SELECT EXISTS (SELECT FROM tokenalert.recounts r, here WHERE r.id > 0 AND ` + dueNow + `) AS any,
	       EXISTS (SELECT FROM tokenalert.recounts r WHERE r.id > 0 AND r.user_id IS NULL AND r.organization_id IS NULL) AS everything
)`

// sameFile compares the table's file now (a syscache look-up, after the lock)
// with that of our snapshot, once totals has read the rows: a snapshot does not
// survive TRUNCATE or a rewrite by others (manual 13.6 "Caveats").
const sameFile = `
file AS MATERIALIZED (
	SELECT c.relfilenode = pg_relation_filenode(c.oid) AS same
	FROM pg_class c, totals WHERE c.oid = 'ai_usage_logs'::regclass
)`

// countWindow extends the chain and adds the window to the totals, in one
// statement. Where the window holds more than $5 rows the tick ends earlier
// than now: at the transaction id X found $5 rows on, at least one above the
// first, and the chain gets the snapshot that names exactly the transactions
// below X that have ended. One transaction may be of a million users, though:
// of those worth deciding it returns $7, and leaves the others to recounts.
//
// header says what was found, also where nothing was written.
//
// Here and below OFFSET 0 keeps a lookup a lookup. As a join the planner may
// compare each with each, where the statistics are those of an empty table.
func countWindow(b budgets) string {
	return `WITH ` + window + `,
first AS MATERIALIZED (
	SELECT l.xact_id FROM ranges r, LATERAL (
		SELECT xact_id FROM ai_usage_logs WHERE xact_id >= r.lo AND xact_id < r.hi ORDER BY xact_id LIMIT 1
	) l LIMIT 1
),
cut AS MATERIALIZED (
	SELECT l.xact_id FROM ranges r, LATERAL (
		SELECT xact_id FROM ai_usage_logs WHERE xact_id >= r.lo AND xact_id < r.hi ORDER BY xact_id OFFSET 0
	) l OFFSET $5::bigint LIMIT 1
),
target AS MATERIALIZED (
	SELECT end_id, end_id < pg_snapshot_xmax(here.snapshot) AS bounded,
	       CASE WHEN end_id < pg_snapshot_xmax(here.snapshot)
	            THEN format('%s:%s:%s', least(pg_snapshot_xmin(here.snapshot), end_id), end_id,
	                        (SELECT string_agg(xid::text, ',' ORDER BY xid) FROM running WHERE xid < end_id))::pg_snapshot
	            ELSE here.snapshot END AS snapshot
	FROM here, last, LATERAL (
		SELECT coalesce((SELECT greatest(cut.xact_id, after.id) FROM cut, first, LATERAL (
		                 -- no id has 0, 1 or 2 in its lower 32 bits
		                 SELECT (i + CASE WHEN i % 4294967296 = 4294967295 THEN 4 ELSE 1 END)::text::xid8 AS id
		                 FROM (SELECT first.xact_id::text::bigint AS i) first) after),
		                pg_snapshot_xmax(here.snapshot)) AS end_id
		OFFSET 0 -- once, not wherever it is named: each copy costs every tick its start
	) e
),
fresh AS (
	SELECT l.user_id, l.created_at, l.tokens_used AS amount` + b.organization("l.") + `
	FROM target, ranges r, LATERAL (
		SELECT user_id, created_at, tokens_used` + b.organization("") + ` FROM ai_usage_logs
		WHERE xact_id >= r.lo AND xact_id < least(r.hi, target.end_id) OFFSET 0
	) l
	WHERE r.lo < target.end_id
	UNION ALL
	SELECT l.user_id, l.created_at, l.tokens_used` + b.organization("l.") + `
	FROM ended, LATERAL (
		SELECT user_id, created_at, tokens_used` + b.organization("") + ` FROM ai_usage_logs WHERE xact_id = ended.xid OFFSET 0
	) l
),` + placeRows(b) + `,` + sameFile + `,
fence AS (
	INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
	SELECT last.id + 1, target.snapshot, last.system_identifier, 'window', totals.rows, totals.users, $6, here.at
	FROM last, here, target, totals, due, file
	WHERE file.same AND here.system_identifier = last.system_identifier
	  AND (totals.rows > 0 OR due.any) AND NOT due.everything
	RETURNING id
),
known AS MATERIALIZED ( -- and where the total is, if there is one yet
	SELECT d.*, p.ctid AS total FROM placed d LEFT JOIN LATERAL (
		SELECT p.ctid FROM tokenalert.usage_periods p WHERE p.user_id = d.user_id AND p.period_start = d.period_start OFFSET 0
	) p ON true
),
added AS (
	UPDATE tokenalert.usage_periods p SET tokens_used = p.tokens_used + d.amount, period_end = d.period_end, tick_id = fence.id
	FROM fence, known d WHERE p.ctid = d.total
	RETURNING p.user_id, p.period_start, p.period_end, p.tokens_used, p.marks, d.newest, d.token_limit
),
begun AS MATERIALIZED ( -- by late rows of a period that ended without a total: all of it
	SELECT d.user_id, d.period_start, d.period_end,
	       CASE WHEN d.period_end <= here.at
	            THEN (SELECT sum(u.tokens_used) FROM ai_usage_logs u
	                  WHERE u.user_id = d.user_id AND u.created_at >= d.period_start AND u.created_at < d.period_end
	                    AND (u.xact_id IS NULL OR pg_visible_in_snapshot(u.xact_id, target.snapshot)))
	            ELSE d.amount END AS tokens_used, d.newest, d.token_limit
	FROM fence, here, target, known d WHERE d.total IS NULL
),
inserted AS (
	INSERT INTO tokenalert.usage_periods (user_id, period_start, period_end, tokens_used, tick_id, policy_seen)
	SELECT d.user_id, d.period_start, d.period_end, d.tokens_used, fence.id, ` + policySeen + ` FROM fence, begun d
	ON CONFLICT DO NOTHING -- one that the snapshot does not see is a serialization failure
),
worth AS MATERIALIZED ( -- worth deciding, before accounts() is looked at again for each
	SELECT c.*, row_number() OVER () AS n
	FROM (
		SELECT * FROM added
		UNION ALL
		SELECT d.user_id, d.period_start, d.period_end, d.tokens_used, '{}', d.newest, d.token_limit FROM begun d
	) c
	WHERE ` + worthDeciding("c.token_limit") + `
),
undecided AS ( -- more than a tick looks at
	INSERT INTO tokenalert.recounts (user_id, at, due_at, cause)
	SELECT worth.user_id, worth.period_start, here.at, 'undecided' FROM here, worth WHERE worth.n > $7::bigint
),
begins AS ( -- a period in the future is looked at again when it begins
	INSERT INTO tokenalert.recounts (user_id, at, due_at, cause)
	SELECT d.user_id, d.period_start, d.period_start, 'period_begins' FROM here, begun d WHERE d.period_start > here.at
)` + b.only(addShares) + `
SELECT here.at, last.id IS NULL, coalesce(last.system_identifier = here.system_identifier, true), file.same, ` + zonesKnown(b) + `, ` + inForce + `,
       due.any, due.everything, fence.id, totals.rows, totals.users, totals.skipped, coalesce(target.bounded, false),
       CASE WHEN target.bounded THEN (SELECT l.created_at FROM cut, LATERAL (
	           SELECT created_at FROM ai_usage_logs WHERE xact_id = cut.xact_id AND isfinite(created_at) LIMIT 1) l) END,
       (SELECT count(*) FROM worth WHERE n > $7::bigint),
       s.*
FROM here CROSS JOIN due CROSS JOIN totals CROSS JOIN file
LEFT JOIN last ON true LEFT JOIN target ON true LEFT JOIN fence ON true
LEFT JOIN (
	SELECT ` + candidateColumns + `
	FROM worth c, ` + accountOfCandidate + `
	WHERE c.n <= $7::bigint` + b.only(`
	UNION ALL
	SELECT `+budgetCandidateColumns+`
	FROM counted_budgets c, `+budgetOfCandidate+`
	WHERE `+worthDeciding("b.token_limit")) + `
) s ON true`
}

// inForce is whether the time zone ($8; NULL: any, empty: there are no settings yet)
// and the thresholds ($9) are in force that the worker takes to be. Another leader may
// have put its own in force, by a tick before this one, while this worker has not yet
// heard that it leads no more; or this worker has, by a tick whose commit was not
// answered. What commits after this tick's snapshot collides with it in the chain.
const inForce = `CASE WHEN $8::text IS NULL THEN true
            WHEN $8 = '' THEN NOT EXISTS (SELECT FROM tokenalert.settings)
            ELSE EXISTS (SELECT FROM tokenalert.settings WHERE singleton AND time_zone = $8 AND thresholds = $9::integer[]) END`

// countEverything is the tick of another kind: every total from the rows at its
// own snapshot, for the current and the previous period of each user and for
// what lies ahead. Older periods are history. $5 is the earliest instant that
// it reads, $6 the worker, $7 the kind.
func countEverything(b budgets) string {
	return `WITH ` + window + `,
fresh AS (
	SELECT user_id, created_at, tokens_used AS amount` + b.organization("") + ` FROM ai_usage_logs WHERE created_at >= $5::timestamptz
),` + placeRows(b) + `,` + sameFile + `,
fence AS (
	INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
	SELECT coalesce(last.id, 0) + 1, here.snapshot, here.system_identifier, $7, totals.rows, totals.users, $6, here.at
	FROM here CROSS JOIN totals CROSS JOIN file LEFT JOIN last ON true
	WHERE file.same AND coalesce(last.system_identifier = here.system_identifier, true)
	RETURNING id
),
counted AS (
	INSERT INTO tokenalert.usage_periods AS p (user_id, period_start, period_end, tokens_used, tick_id, policy_seen)
	SELECT d.user_id, d.period_start, d.period_end, d.amount, fence.id, ` + policySeen + `
	FROM fence, placed d WHERE d.period_start >= d.since
	ON CONFLICT (user_id, period_start) DO UPDATE SET tokens_used = EXCLUDED.tokens_used, period_end = EXCLUDED.period_end, tick_id = EXCLUDED.tick_id
	RETURNING p.user_id, p.period_start, p.period_end, p.tokens_used, p.marks
),
emptied AS ( -- totals that no row supports any more
	UPDATE tokenalert.usage_periods p SET tokens_used = 0, tick_id = fence.id
	FROM fence, (
		SELECT user_id, period_start FROM (
			SELECT u.user_id, u.period_start, false AS placed
			FROM tokenalert.usage_periods u LEFT JOIN (
				SELECT a.user_id, a.reset_day + ` + zonePlace + ` AS place FROM tokenalert.accounts() a
			) a ON a.user_id = u.user_id
			WHERE (u.period_start = ANY (($2::timestamptz[])[5 * coalesce(a.place, 1) - 3:5 * coalesce(a.place, 1) - 1])
			       OR u.period_start > (SELECT at FROM here))
			  AND u.tokens_used <> 0
			UNION ALL
			SELECT user_id, period_start, true FROM placed
		) both_sides
		GROUP BY 1, 2 HAVING NOT bool_or(placed)
	) e
	WHERE p.user_id = e.user_id AND p.period_start = e.period_start
	RETURNING p.user_id, p.period_start, p.period_end, p.tokens_used, p.marks
),
cleared AS (
	DELETE FROM tokenalert.recounts r USING fence WHERE r.user_id IS NULL AND r.organization_id IS NULL
),
begins AS (
	INSERT INTO tokenalert.recounts (user_id, at, due_at, cause)
	SELECT d.user_id, d.period_start, d.period_start, 'period_begins' FROM fence, here, placed d WHERE d.period_start > here.at
)` + b.only(setShares) + `
SELECT here.at, last.id IS NULL, coalesce(last.system_identifier = here.system_identifier, true), file.same, ` + zonesKnown(b) + `, ` + inForce + `,
       due.any, false, fence.id, totals.rows, totals.users, totals.skipped, false, NULL::timestamptz, 0::bigint,
       s.*
FROM here CROSS JOIN due CROSS JOIN totals CROSS JOIN file
LEFT JOIN last ON true LEFT JOIN fence ON true
LEFT JOIN (
	SELECT ` + candidateColumns + `
	FROM (SELECT *, NULL::timestamptz AS newest FROM counted UNION ALL SELECT *, NULL FROM emptied) c
	, ` + accountOfCandidate + `
	WHERE ` + worthDeciding("a.token_limit") + b.only(`
	UNION ALL
	SELECT `+budgetCandidateColumns+`
	FROM counted_budgets c, `+budgetOfCandidate) + `
) s ON true`
}

// counts tells corrections that have something counted anew from those that only
// have it decided, in the period of their instant.
const counts = `cause NOT IN ('undecided', 'held', 'set_aside')`

// dueNow are the corrections r that here is not too early for.
const dueNow = `(r.due_at IS NULL OR r.due_at <= here.at)`

// countsUser are those of them that have a user counted anew.
const countsUser = `r.user_id IS NOT NULL AND r.at IS NOT NULL AND ` + counts + ` AND cause <> 'budget_begins' AND ` + dueNow

// countWanted deals with the corrections that are due, up to $4 of them and $5
// users. It takes them in their order, which those of budgets rely on, and of the
// users whose turn it is those further behind as well, so that each is counted
// once for them. The periods of the corrected rows and the user's current one are
// counted anew at the snapshot that this tick has written into the chain, not at
// the tick's own, which in a bounded tick would count ahead what the next one adds. A
// correction without an instant asks only for a new decision, and so does what
// an earlier tick left undecided, or could not write, in the period that its
// instant names. Also who stands below every threshold is a candidate: what the
// window said of them holds no longer.
//
// With budgets, corrections of rows count the shares of their users anew too.
func countWanted(b budgets) string {
	return `WITH
tick AS MATERIALIZED (
	SELECT id, snapshot FROM tokenalert.ticks ORDER BY id DESC LIMIT 1
),
here AS MATERIALIZED (
	SELECT tokenalert.now() AS at
),
due AS MATERIALIZED (
	SELECT r.id, r.user_id FROM tokenalert.recounts r, here
	WHERE (r.user_id IS NOT NULL OR r.organization_id IS NOT NULL) AND ` + dueNow + ` ORDER BY r.id LIMIT $4::bigint
),
turns AS MATERIALIZED (
	SELECT user_id FROM due WHERE user_id IS NOT NULL GROUP BY 1 ORDER BY min(id) LIMIT $5::bigint
),
taken AS MATERIALIZED (
	DELETE FROM tokenalert.recounts r
	WHERE r.id = ANY (ARRAY( -- not a join, whose plan may read them all again for each
		SELECT id FROM due
		WHERE user_id IN (SELECT user_id FROM turns)
		   OR id < coalesce((SELECT min(id) FROM due WHERE user_id IS NOT NULL AND user_id NOT IN (SELECT user_id FROM turns)), 9223372036854775807)))
	RETURNING r.user_id, r.organization_id, r.at, r.cause, r.budget_version, r.at IS NOT NULL AND ` + counts + ` AS counts
),
fresh AS ( -- amount tells a count (1) from a decision (0)
	SELECT DISTINCT user_id, at AS created_at, counts::integer AS amount FROM taken WHERE user_id IS NOT NULL AND at IS NOT NULL AND cause <> 'budget_begins'
	UNION ALL
	SELECT taken.user_id, here.at, max(counts::integer) FROM taken, here WHERE user_id IS NOT NULL AND cause <> 'budget_begins' GROUP BY 1, 2
),` + placeRows(false) + `,
counted AS (
	INSERT INTO tokenalert.usage_periods AS p (user_id, period_start, period_end, tokens_used, tick_id, policy_seen)
	SELECT d.user_id, d.period_start, d.period_end, l.tokens, tick.id, ` + policySeen + `
	FROM tick, placed d, LATERAL (
		SELECT coalesce(sum(u.tokens_used), 0) AS tokens FROM ai_usage_logs u
		WHERE u.user_id = d.user_id AND u.created_at >= d.period_start AND u.created_at < d.period_end
		  AND (u.xact_id IS NULL OR pg_visible_in_snapshot(u.xact_id, tick.snapshot))
	) l
	WHERE d.amount > 0
	  AND (l.tokens <> 0 OR EXISTS (SELECT FROM tokenalert.usage_periods p
	                                WHERE p.user_id = d.user_id AND p.period_start = d.period_start OFFSET 0))
	ON CONFLICT (user_id, period_start) DO UPDATE SET tokens_used = EXCLUDED.tokens_used, period_end = EXCLUDED.period_end, tick_id = EXCLUDED.tick_id
	RETURNING p.user_id, p.period_start, p.period_end, p.tokens_used, p.marks
),
begins AS (
	INSERT INTO tokenalert.recounts (user_id, at, due_at, cause)
	SELECT c.user_id, c.period_start, c.period_start, 'period_begins'
	FROM (SELECT c.user_id, c.period_start FROM here, counted c WHERE c.period_start > here.at OFFSET 0) c
	WHERE NOT EXISTS (SELECT FROM tokenalert.usage_periods p WHERE p.user_id = c.user_id AND p.period_start = c.period_start OFFSET 0)
)` + b.only(recountShares) + `
SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM turns),
       (SELECT count(*) FROM due) = $4::bigint OR (SELECT count(*) FROM taken) < (SELECT count(*) FROM due),
       (SELECT count(*) FROM counted), EXISTS (SELECT FROM tokenalert.budgets WHERE NOT counted), s.*
FROM (SELECT) one LEFT JOIN (
	SELECT ` + candidateColumns + `
	FROM (
		SELECT *, NULL::timestamptz AS newest FROM counted
		UNION ALL
		SELECT d.user_id, d.period_start, p.period_end, p.tokens_used, p.marks, NULL
		FROM placed d, LATERAL (
			SELECT p.period_end, p.tokens_used, p.marks FROM tokenalert.usage_periods p
			WHERE p.user_id = d.user_id AND p.period_start = d.period_start OFFSET 0
		) p
		WHERE d.amount = 0
	) c, ` + accountOfCandidate + b.only(`
	UNION ALL
	SELECT `+budgetCandidateColumns+`
	FROM decidable c, `+budgetOf(`(b.counted OR b.organization_id IN (SELECT organization_id FROM began))`)) + `
) s ON true`
}

// uncorrected are the users, and the organizations whose budgets they use, of whom
// corrections that have something counted anew are left to later ticks.
const uncorrected = `
SELECT DISTINCT r.user_id, r.organization_id FROM tokenalert.recounts r, (SELECT tokenalert.now() AS at) here
WHERE r.id > 0 AND ` + countsUser

// forgetDeleted drops the totals of users that no longer exist, of those whose
// corrections countWanted looks at, $1 of them. Where their usage stays (a host
// without the foreign key), it counts that as any usage of an unknown user.
const forgetDeleted = `
DELETE FROM tokenalert.usage_periods
WHERE ctid = ANY (ARRAY(
	SELECT p.ctid
	FROM (
		SELECT DISTINCT r.user_id
		FROM (
			SELECT r.user_id, r.cause FROM tokenalert.recounts r
			WHERE r.user_id IS NOT NULL AND (r.due_at IS NULL OR r.due_at <= tokenalert.now())
			ORDER BY r.id LIMIT $1::bigint
		) r
		WHERE r.cause = 'user_deleted' AND NOT EXISTS (SELECT FROM tokenalert.accounts() a WHERE a.user_id = r.user_id OFFSET 0)
	) gone, LATERAL (
		SELECT p.ctid FROM tokenalert.usage_periods p WHERE p.user_id = gone.user_id OFFSET 0
	) p))`
