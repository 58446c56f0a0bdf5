package store

import "slices"

// placeRows turns fresh (user_id, created_at, amount) into placed, one row per
// user and period. Rows are first summed per user and per stretch of time in
// which no period begins ($1, see Periods), so that the calendar is consulted
// once per group and not once per row. A group's account and period are then
// looked up, the period in an array ($2), rather than joined: a join's plan would
// follow the guess of how many users a tick touches, and be slow for those that
// it does not expect. Where the usage is large it guesses many, and would read
// all users for a tick of one row.
//
// With budgets the rows are kept apart by organization as well.
//
// Parameters: $1 edges, $2 bounds, $3 time zones: that of the settings, and those
// of policies and budgets.
func placeRows(b budgets) string {
	return `
grouped AS MATERIALIZED (
	SELECT user_id, stretch,
	       CASE WHEN stretch = -1 THEN NULL
	            WHEN stretch BETWEEN 1 AND cardinality($1::timestamptz[]) - 1 THEN ($1::timestamptz[])[stretch]
	            ELSE created_at END AS at,
	       sum(amount) AS amount, count(*) AS rows, max(created_at) AS newest` + b.organization("") + `
	FROM (
		SELECT user_id, created_at, amount` + b.organization("") + `,
		       CASE WHEN created_at >= '2000-01-01 00:00+00' AND created_at < '2100-01-01 00:00+00'
		            THEN width_bucket(created_at, $1::timestamptz[]) ELSE -1 END AS stretch
		FROM fresh OFFSET 0 -- once for each row, not wherever it is named
	) f
	GROUP BY 1, 2, 3` + b.organization("") + `
),
totals AS MATERIALIZED (
	SELECT coalesce(sum(rows), 0)::bigint AS rows, (SELECT count(*) FROM (SELECT FROM grouped GROUP BY user_id) u) AS users,
	       coalesce(sum(rows) FILTER (WHERE stretch = -1), 0)::bigint AS skipped
	FROM grouped
),
placed AS (
	SELECT g.user_id, p.period_start, max(p.period_end) AS period_end, sum(g.amount) AS amount, max(g.newest) AS newest, min(p.since) AS since,
	       max(g.token_limit) AS token_limit
	FROM (
		SELECT g.*, a.token_limit, 5 * coalesce(a.place, 1) AS last -- of the five bounds of the user's reset day in their zone
		FROM grouped g LEFT JOIN LATERAL (
			SELECT a.token_limit, a.reset_day + ` + zonePlace + ` AS place FROM tokenalert.accounts() a WHERE a.user_id = g.user_id OFFSET 0
		) a ON true
		WHERE g.stretch >= 0
	) g
	` + periodOfGroup + `
	GROUP BY 1, 2
)`
}

// periodOfGroup is the period p of g.at, by the five bounds that end with the one
// at g.last; p.since is from when totals are complete.
const periodOfGroup = `CROSS JOIN LATERAL (
		SELECT width_bucket(g.at, ($2::timestamptz[])[g.last - 4:g.last]) AS n OFFSET 0
	) b
	CROSS JOIN LATERAL (
		SELECT CASE WHEN b.n BETWEEN 1 AND 4 THEN ($2::timestamptz[])[g.last - 5 + b.n]
		            ELSE tokenalert.period_start(` + dayAndZone + `, g.at) END AS period_start,
		       CASE WHEN b.n BETWEEN 1 AND 4 THEN ($2::timestamptz[])[g.last - 4 + b.n]
		            ELSE tokenalert.period_end(` + dayAndZone + `, g.at) END AS period_end,
		       ($2::timestamptz[])[g.last - 3] AS since
	) p`

// zonePlace is where the bounds of a user's zone begin, in reset days. Where all
// are of the settings' zone, nothing is looked up. A zone that the server does not
// know is taken for that of the settings.
const zonePlace = `CASE WHEN cardinality($3::text[]) = 1 THEN 0 ELSE 31 * (
	SELECT coalesce(array_position($3::text[], coalesce(u.time_zone, o.time_zone)), 1) - 1
	FROM (SELECT) one LEFT JOIN tokenalert.policies u ON u.user_id = a.user_id LEFT JOIN tokenalert.policies o ON o.organization_id = a.organization_id) END`

// dayAndZone are the reset day and the zone of a place.
const dayAndZone = `1 + (g.last / 5 - 1) % 31, ($3::text[])[1 + (g.last / 5 - 1) / 31]`

// zonesKnown is whether $3 has the zones of all policies and budgets, also those
// that the server does not know, and whether there are no budgets where they are
// not looked at.
func zonesKnown(b budgets) string {
	const missing = `time_zone <> ALL ($3::text[]) AND '` + unknownZone + `' || time_zone <> ALL ($3::text[])`
	known := `NOT EXISTS (SELECT FROM tokenalert.policies WHERE time_zone IS NOT NULL AND ` + missing + `)
       AND NOT EXISTS (SELECT FROM tokenalert.budgets`
	if b {
		known += ` WHERE ` + missing
	}
	return known + `)`
}

// candidateColumns are what a decision needs to know of c, a row of
// usage_periods, and a, its user's account. told lists the thresholds that the
// user was told within this period under another period's key (the reset day
// or the zone has changed since, or the host told it before we took over). Such a
// period overlaps this one, and none is as long as 32 days.
const candidateColumns = `
	c.user_id, a.organization_id, left(a.full_name, 200) AS full_name, left(a.language, 50) AS language,
	c.period_start, c.period_end, greatest(least(c.tokens_used, 9223372036854775807), -9223372036854775808)::bigint AS tokens_used,
	greatest(a.token_limit, 0) AS token_limit, c.marks, c.newest,
	ARRAY(SELECT DISTINCT t.alert_threshold FROM token_limit_alerts t
	      WHERE t.user_id = c.user_id AND t.alert_sent
	        AND t.sent_at >= c.period_start AND t.sent_at < c.period_end
	        AND t.period_start IS DISTINCT FROM c.period_start
	        AND (t.period_start IS NULL OR t.period_start > c.period_start - interval '32 days')
	        AND (t.token_limit IS NULL OR t.token_limit = a.token_limit)) AS told,
	p.*`

// accountOfCandidate looks up a, the account of c, and p, the policies that count
// for it. stale is the newest of them, where c was never decided under it, and
// added what it and those before have gained since; a total that begins in this
// tick is not seen here, and not stale. The user's own policy counts before that
// of the organization.
const accountOfCandidate = `LATERAL (SELECT * FROM tokenalert.accounts() a WHERE a.user_id = c.user_id OFFSET 0) a, LATERAL (
	SELECT coalesce(x.thresholds, x.organization_thresholds) AS thresholds,
	       CASE WHEN greatest(x.version, x.organization_version) > x.seen THEN greatest(x.version, x.organization_version) END AS stale,
	       ARRAY(SELECT unnest(x.added) WHERE x.version > x.seen
	             UNION ALL SELECT unnest(x.organization_added) WHERE x.organization_version > x.seen AND x.thresholds IS NULL) AS added,
	       x.time_zone, x.language, x.organization_language, x.channels, x.muted, x.admins_from
	FROM (
		SELECT u.thresholds, u.version, u.added, coalesce(u.time_zone, o.time_zone) AS time_zone, u.language, o.thresholds AS organization_thresholds, o.version AS organization_version,
		       o.added AS organization_added, o.language AS organization_language, coalesce(u.channels, o.channels) AS channels,
		       coalesce(coalesce(u.muted_until, o.muted_until) > tokenalert.now(), false) AS muted,
		       coalesce(u.admins_from, o.admins_from, 0) AS admins_from,
		       CASE WHEN u.version IS NOT NULL OR o.version IS NOT NULL THEN ( -- read where there is a policy
			       SELECT s.policy_seen FROM tokenalert.usage_periods s WHERE s.user_id = c.user_id AND s.period_start = c.period_start) END AS seen
		FROM (SELECT) one
		LEFT JOIN tokenalert.policies u ON u.user_id = c.user_id
		LEFT JOIN tokenalert.policies o ON o.organization_id = a.organization_id
		OFFSET 0
	) x
	OFFSET 0
) p`

// floor is the threshold ($4, percent) below which nobody needs a decision, or
// the lowest of a policy.
const floor = `least($4::integer, (SELECT thresholds[1] FROM tokenalert.policies WHERE thresholds IS NOT NULL ORDER BY thresholds[1] LIMIT 1))`

// policySeen is the version that a total begins with.
const policySeen = `coalesce((SELECT version FROM tokenalert.policies ORDER BY version DESC LIMIT 1), 0)`

// worthDeciding leaves out, before they travel, all who stand below the lowest
// threshold and hold no mark that could clear.
func worthDeciding(limit string) string {
	return `(c.marks <> '{}' OR (` + limit + ` > 0 AND c.tokens_used * 100 >= ` + limit + `::numeric * ` + floor + `))`
}

// placing are the parameters of placeRows, in their order, and more.
func (p *Periods) placing(more ...any) []any {
	return slices.Concat(p.sent, more)
}

// parameters are those of placeRows and worthDeciding, in their order.
func (p *Periods) parameters(floor int, more ...any) []any {
	return append(p.placing(floor), more...)
}
