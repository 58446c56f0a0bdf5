-- +goose Up
-- What the host reads: who has used how much, and who was told what. Both views
-- read as their owner, so whoever reads them needs no right on the tables.
SET LOCAL lock_timeout = '60ms';

-- The newest alerts, and those of a month, without reading all there ever were
-- (what it saves, and what it costs to write: docs/reporting.md).
CREATE INDEX token_limit_alerts_created_at_idx ON token_limit_alerts (created_at);

-- +goose StatementBegin
DO $do$
DECLARE
    host_users text;
    has_limits boolean := EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
        AND attname = 'monthly_token_limit' AND NOT attisdropped);
    has_reset_day boolean := EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
        AND attname = 'token_limit_reset_day' AND NOT attisdropped);
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname) INTO host_users
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('users');
    -- accounts(), which stood here, is inlined with the rights of whoever reads.
    -- A view keeps the columns it names from being altered: of users our
    -- triggers do so already, but for id, to which foreign keys point.
    -- OFFSET 0 has the bounds worked out once for each reset day (Memoize), not
    -- for each user: 100,000 users in 140 ms instead of 500.
    EXECUTE format($sql$
        CREATE OR REPLACE VIEW tokenalert.current_usage AS
        SELECT h.id AS user_id,
               h.organization_id,
               greatest(least(coalesce(u.tokens_used, 0), 9223372036854775807), -9223372036854775808)::bigint AS tokens_used,
               CASE WHEN %1$s > 0 THEN %1$s::bigint END AS token_limit,
               CASE WHEN %1$s > 0 THEN trunc(coalesce(u.tokens_used, 0) * 100 / %1$s, 1) END AS percent_used,
               p.period_start,
               p.period_end AS resets_at
        FROM tokenalert.settings s
        CROSS JOIN %3$s h %4$s
        CROSS JOIN LATERAL (
            SELECT tokenalert.period_start(%2$s, s.time_zone, tokenalert.now()) AS period_start,
                   tokenalert.period_end(%2$s, s.time_zone, tokenalert.now()) AS period_end
            OFFSET 0
        ) p
        LEFT JOIN tokenalert.usage_periods u ON u.user_id = h.id AND u.period_start = p.period_start $sql$,
        CASE WHEN has_limits THEN 'h.monthly_token_limit' ELSE 'l.monthly_token_limit' END,
        CASE WHEN has_limits AND has_reset_day THEN 'h.token_limit_reset_day::integer'
             WHEN has_limits THEN '1' ELSE 'l.token_limit_reset_day' END,
        host_users,
        CASE WHEN has_limits THEN '' ELSE 'LEFT JOIN tokenalert.user_limits l ON l.user_id = h.id' END);
END
$do$;
-- +goose StatementEnd
COMMENT ON VIEW tokenalert.current_usage IS 'Usage of each user in the current period, as of the newest tick; one row per user';
COMMENT ON COLUMN tokenalert.current_usage.user_id IS 'users.id';
COMMENT ON COLUMN tokenalert.current_usage.organization_id IS 'The organization that the user is in now';
COMMENT ON COLUMN tokenalert.current_usage.tokens_used IS 'Tokens used since period_start; 0 where there are none. What does not fit a bigint is its nearest';
COMMENT ON COLUMN tokenalert.current_usage.token_limit IS 'Tokens allowed for a period; NULL: unlimited';
COMMENT ON COLUMN tokenalert.current_usage.percent_used IS 'Of token_limit, cut after one decimal, so that 100.0 means reached; NULL: unlimited';
COMMENT ON COLUMN tokenalert.current_usage.period_start IS 'When the period began: midnight of the reset day, in the zone of the settings';
COMMENT ON COLUMN tokenalert.current_usage.resets_at IS 'When the next period begins, and tokens_used is 0 again';

-- alert_columns: what alert_history has from the host's own columns. A view that
-- named them would keep the host from altering them; a function that takes the
-- row, with its body as a string, is inlined and keeps nobody from anything.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.alert_columns(alert anyelement)
RETURNS TABLE (threshold integer, told boolean, how text, crossed_at timestamptz, told_at timestamptz)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
    AS $body$
        SELECT alert.alert_threshold::integer, alert.alert_sent, alert.alert_type::text, alert.created_at::timestamptz, alert.sent_at::timestamptz
    $body$;
-- +goose StatementEnd
COMMENT ON FUNCTION tokenalert.alert_columns(anyelement) IS 'Of a row of token_limit_alerts, for tokenalert.alert_history';

CREATE VIEW tokenalert.alert_history AS
SELECT t.id AS alert_id,
       t.user_id,
       t.organization_id,
       a.threshold,
       t.token_limit,
       t.tokens_used::bigint AS tokens_used,
       trunc(t.percent_used, 1) AS percent_used,
       t.period_start,
       t.period_end AS resets_at,
       a.crossed_at,
       coalesce(a.told, false) AS told,
       CASE WHEN a.told THEN a.told_at END AS told_at,
       CASE WHEN a.told THEN a.how END AS how,
       t.reason,
       t.notification_id
FROM token_limit_alerts t CROSS JOIN LATERAL tokenalert.alert_columns(t) a;
COMMENT ON VIEW tokenalert.alert_history IS 'Every threshold that was crossed, of any time. Rows that the host wrote before tokenalert took over have period_start NULL';
COMMENT ON COLUMN tokenalert.alert_history.alert_id IS 'Of token_limit_alerts. The same user, period, threshold and limit give the same id';
COMMENT ON COLUMN tokenalert.alert_history.user_id IS 'users.id; the alerts of a deleted user go with the user';
COMMENT ON COLUMN tokenalert.alert_history.organization_id IS 'The organization that the user was in';
COMMENT ON COLUMN tokenalert.alert_history.threshold IS 'In percent of the limit';
COMMENT ON COLUMN tokenalert.alert_history.token_limit IS 'The limit that the user had; NULL in rows of the host';
COMMENT ON COLUMN tokenalert.alert_history.tokens_used IS 'What was used when the crossing was seen; NULL in rows of the host';
COMMENT ON COLUMN tokenalert.alert_history.percent_used IS 'tokens_used of token_limit, cut after one decimal; NULL in rows of the host';
COMMENT ON COLUMN tokenalert.alert_history.period_start IS 'When the period began in which it was crossed; NULL: the host wrote the row before tokenalert took over';
COMMENT ON COLUMN tokenalert.alert_history.resets_at IS 'When that period ended, or will; NULL in rows of the host';
COMMENT ON COLUMN tokenalert.alert_history.crossed_at IS 'When the crossing was seen, milliseconds after the usage committed; in rows of the host when it was first written';
COMMENT ON COLUMN tokenalert.alert_history.told IS 'Whether the user was told';
COMMENT ON COLUMN tokenalert.alert_history.told_at IS 'When the user was told; NULL: not told. In rows of the host, which keep one for all months, the last time';
COMMENT ON COLUMN tokenalert.alert_history.how IS 'notification: in the app; rows of the host also email or both; NULL: not told';
COMMENT ON COLUMN tokenalert.alert_history.reason IS 'Why the user was not told: superseded (a higher threshold was), period_closed, threshold_added, carried_over, backfill or muted; NULL: told, or a row of the host';
COMMENT ON COLUMN tokenalert.alert_history.notification_id IS 'The row in notifications that told the user; NULL: none, or a row of the host';

-- The roles that `migrate grant` was given for reading, for `migrate up` after a
-- restore without privileges. They have nothing on the host's tables, so `down`
-- takes theirs back by dropping what they may read, and keeps who they were.
-- +goose StatementBegin
DO $do$
BEGIN
    IF to_regclass('tokenalert_archive.granted_readers') IS NOT NULL THEN -- a down that went no further
        ALTER TABLE tokenalert_archive.granted_readers SET SCHEMA tokenalert;
        IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'tokenalert_archive'::regnamespace) THEN
            DROP SCHEMA tokenalert_archive;
        END IF;
    END IF;
END
$do$;
-- +goose StatementEnd
CREATE TABLE IF NOT EXISTS tokenalert.granted_readers (
    role       name        PRIMARY KEY,
    granted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE tokenalert.granted_readers IS 'Roles that were given what reads current_usage and alert_history';

-- +goose Down
-- Both views go first: where the host has made a view of its own upon them, down
-- stops here, where nothing has been given back yet.
-- +goose StatementBegin
DO $do$
DECLARE
    dependents text;
BEGIN
    SELECT string_agg(DISTINCT c.oid::regclass::text, ', ') INTO dependents
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass JOIN pg_class c ON c.oid = r.ev_class
    WHERE d.refobjid IN ('tokenalert.current_usage'::regclass, 'tokenalert.alert_history'::regclass)
      AND c.oid NOT IN ('tokenalert.current_usage'::regclass, 'tokenalert.alert_history'::regclass);
    IF dependents IS NOT NULL THEN
        RAISE EXCEPTION 'other views read ours; drop them first: %', dependents;
    END IF;
END
$do$;
-- +goose StatementEnd
DROP VIEW tokenalert.alert_history, tokenalert.current_usage;
DROP FUNCTION tokenalert.alert_columns(anyelement);
CREATE SCHEMA IF NOT EXISTS tokenalert_archive;
ALTER TABLE tokenalert.granted_readers SET SCHEMA tokenalert_archive;
SET LOCAL lock_timeout = '60ms';
DROP INDEX token_limit_alerts_created_at_idx;

-- As in 00004.
CREATE VIEW tokenalert.current_usage AS
SELECT a.user_id,
       a.organization_id,
       greatest(least(coalesce(u.tokens_used, 0), 9223372036854775807), -9223372036854775808)::bigint AS tokens_used,
       CASE WHEN a.token_limit > 0 THEN a.token_limit END AS token_limit,
       CASE WHEN a.token_limit > 0 THEN trunc(coalesce(u.tokens_used, 0) * 100 / a.token_limit, 1) END AS percent_used,
       p.period_start,
       p.period_end AS resets_at
FROM tokenalert.settings s
CROSS JOIN tokenalert.accounts() a
CROSS JOIN LATERAL (
    SELECT tokenalert.period_start(a.reset_day, s.time_zone, tokenalert.now()) AS period_start,
           tokenalert.period_end(a.reset_day, s.time_zone, tokenalert.now()) AS period_end
) p
LEFT JOIN tokenalert.usage_periods u ON u.user_id = a.user_id AND u.period_start = p.period_start;
COMMENT ON VIEW tokenalert.current_usage IS 'Usage of each user in the current period, as of the newest tick; limit and percentage are NULL for the unlimited';
