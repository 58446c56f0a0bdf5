-- +goose Up
-- What the worker keeps. The SQL that reads and writes it is in package store.

-- The chain: cursor, fence and history in one. A tick inserts id = last + 1
-- with the snapshot up to which it has counted; two workers that both believe
-- they lead collide on ticks_pkey.
CREATE TABLE tokenalert.ticks (
    id                bigint      CONSTRAINT ticks_pkey PRIMARY KEY,
    snapshot          pg_snapshot NOT NULL,
    system_identifier bigint      NOT NULL,
    kind              text        NOT NULL CHECK (kind IN ('first', 'full', 'window')),
    rows              bigint      NOT NULL,
    users             bigint      NOT NULL,
    worker            text        NOT NULL,
    started_at        timestamptz NOT NULL
);
COMMENT ON TABLE tokenalert.ticks IS 'One row per tick, kept for TOKENALERT_TICK_RETENTION. The newest names, as a snapshot, exactly the transactions that have been counted.';

-- Running totals. Updates change no indexed column and the pages keep room for
-- them, so that they stay HOT.
CREATE TABLE tokenalert.usage_periods (
    user_id      uuid        NOT NULL,
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    tokens_used  numeric     NOT NULL,
    marks        integer[]   NOT NULL DEFAULT '{}',
    tick_id      bigint      NOT NULL,
    CONSTRAINT usage_periods_pkey PRIMARY KEY (user_id, period_start)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE tokenalert.usage_periods IS 'Tokens used per user and period, as of the newest tick.';
COMMENT ON COLUMN tokenalert.usage_periods.tokens_used IS 'numeric, because no sum of integers overflows it';
COMMENT ON COLUMN tokenalert.usage_periods.marks IS 'Thresholds (percent) that have been dealt with and not been left again';
COMMENT ON COLUMN tokenalert.usage_periods.tick_id IS 'The tick that last changed tokens_used';

-- Corrections, appended by triggers and by the worker, deleted by the tick
-- that has dealt with them. No unique or foreign key but the identity, so that
-- writers of the host never wait for one another here.
CREATE TABLE tokenalert.recounts (
    id      bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT recounts_pkey PRIMARY KEY,
    user_id uuid,
    at      timestamptz,
    due_at  timestamptz,
    cause   text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        vacuum_truncate = off); -- giving pages back takes a lock that host statements would wait for
COMMENT ON COLUMN tokenalert.recounts.user_id IS 'NULL: everybody, by a full count';
COMMENT ON COLUMN tokenalert.recounts.at IS 'Count the period of this instant and the current one anew; NULL: only decide anew';
COMMENT ON COLUMN tokenalert.recounts.due_at IS 'Not before; NULL: at once';

-- The settings in force, for the views and for every replica to compare with.
CREATE TABLE tokenalert.settings (
    singleton   boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    time_zone   text        NOT NULL,
    thresholds  integer[]   NOT NULL,
    bell_forced boolean     NOT NULL DEFAULT false,
    worker      text        NOT NULL,
    changed_at  timestamptz NOT NULL
);
COMMENT ON COLUMN tokenalert.settings.bell_forced IS 'Ring although prepared transactions are allowed (PostgreSQL refuses PREPARE TRANSACTION after NOTIFY)';

-- Limits for a host whose users have no limit columns. A column added to users
-- would break every cached plan of SELECT * on it.
CREATE TABLE tokenalert.user_limits (
    user_id               uuid    CONSTRAINT user_limits_pkey PRIMARY KEY,
    monthly_token_limit   bigint  CHECK (monthly_token_limit <= 1000000000000000),
    token_limit_reset_day integer DEFAULT 1
);
COMMENT ON TABLE tokenalert.user_limits IS 'Limits, where the users table has none (ignored where it has). NULL or 0: unlimited.';

-- The bell is a lease: the value is the epoch second until which it is armed. A
-- bell that was silenced has no last value (is_called is false), as one that is
-- new. setval is immediate and never rolled back. Every role that inserts usage
-- reads it in the trigger's condition, so SELECT goes to PUBLIC.
-- https://www.postgresql.org/docs/current/functions-sequence.html
CREATE SEQUENCE tokenalert.doorbell MINVALUE 0 START 0 NO CYCLE;
GRANT SELECT ON SEQUENCE tokenalert.doorbell TO PUBLIC;

-- The roles that `migrate grant` was given, so that `migrate up` can restore
-- their privileges after a restore without them, and `migrate down` take them
-- back.
CREATE TABLE tokenalert.granted_roles (
    role            name        PRIMARY KEY,
    granted_at      timestamptz NOT NULL DEFAULT now(),
    host_privileges text[]      NOT NULL DEFAULT '{}'
);
COMMENT ON COLUMN tokenalert.granted_roles.host_privileges IS 'What the role did not have on the host''s tables before, as in tokenalert.host_privileges';

-- host_privileges: what a role itself, not PUBLIC or a role it is in, may do
-- with the host's tables, each as GRANT and REVOKE spell it.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.host_privileges(role name) RETURNS SETOF text
    LANGUAGE sql STABLE
AS $body$
    WITH tables AS (
        SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid IN (to_regclass('ai_usage_logs'), to_regclass('users'), to_regclass('token_limit_alerts'), to_regclass('notifications'))
    ), held AS (
        SELECT x.grantee, format('%s ON SCHEMA %I', x.privilege_type, n.nspname) AS privilege
        FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
        WHERE n.oid IN (SELECT relnamespace FROM tables)
        UNION ALL
        SELECT x.grantee, format('%s ON %I.%I', x.privilege_type, t.nspname, t.relname)
        FROM tables t, aclexplode(coalesce(t.relacl, acldefault('r', t.relowner))) x
        UNION ALL
        SELECT x.grantee, format('%s (%I) ON %I.%I', x.privilege_type, a.attname, t.nspname, t.relname)
        FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid, aclexplode(a.attacl) x WHERE NOT a.attisdropped
    )
    SELECT h.privilege FROM held h WHERE h.grantee = (SELECT r.oid FROM pg_roles r WHERE r.rolname = role)
$body$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tokenalert.host_privileges(name) FROM PUBLIC;

-- What taking over changed in the host's schema, so that `migrate down` can
-- put it back.
CREATE TABLE tokenalert.takeover (
    singleton             boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    host_trigger          "char",
    host_constraints      jsonb   NOT NULL DEFAULT '{}',
    created_alerts        boolean NOT NULL,
    created_notifications boolean NOT NULL
);
COMMENT ON COLUMN tokenalert.takeover.host_trigger IS 'tgenabled of the host''s own trigger before it was switched off; NULL: there was none';
COMMENT ON COLUMN tokenalert.takeover.host_constraints IS 'Name and definition of the constraints on token_limit_alerts that ours replaced';

-- Who has which limit: the one place that knows where this host keeps it. A
-- plain SQL function with its body as a string is inlined into every query
-- (so an index on users serves), and, unlike a view, stands in the way of no
-- ALTER TABLE of the host.
-- +goose StatementBegin
DO $do$
DECLARE
    host_users text;
    has_limits boolean := EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
        AND attname = 'monthly_token_limit' AND NOT attisdropped);
    has_reset_day boolean := EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
        AND attname = 'token_limit_reset_day' AND NOT attisdropped);
    has_language boolean := EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
        AND attname = 'language' AND NOT attisdropped);
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname) INTO host_users
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('users');
    EXECUTE format($sql$
        CREATE FUNCTION tokenalert.accounts()
        RETURNS TABLE (user_id uuid, organization_id uuid, full_name text, language text, token_limit bigint, reset_day integer)
        LANGUAGE sql STABLE PARALLEL SAFE ROWS 10000
        AS $body$
            SELECT u.id, u.organization_id, u.full_name::text, %s, %s,
                   CASE WHEN %s BETWEEN 1 AND 31 THEN %s WHEN %s > 31 THEN 31 ELSE 1 END
            FROM %s u %s
        $body$ $sql$,
        CASE WHEN has_language THEN 'u.language::text' ELSE 'NULL::text' END,
        CASE WHEN has_limits THEN 'u.monthly_token_limit::bigint' ELSE 'l.monthly_token_limit' END,
        d, d, d, host_users,
        CASE WHEN has_limits THEN '' ELSE 'LEFT JOIN tokenalert.user_limits l ON l.user_id = u.id' END)
    FROM (SELECT CASE WHEN has_limits AND has_reset_day THEN 'u.token_limit_reset_day::integer'
                      WHEN has_limits THEN '1' ELSE 'l.token_limit_reset_day' END AS d) AS reset_day;
END
$do$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tokenalert.accounts() FROM PUBLIC;
COMMENT ON FUNCTION tokenalert.accounts() IS 'Every user with limit and reset day (1-31), wherever this host keeps them';

-- What the host can read instead of summing the month: one row per user.
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

-- What an earlier `down` kept of these tables; 00006 takes in the rest.
-- +goose StatementBegin
DO $do$
BEGIN
    IF to_regnamespace('tokenalert_archive') IS NOT NULL THEN
        INSERT INTO tokenalert.usage_periods SELECT * FROM tokenalert_archive.usage_periods;
        INSERT INTO tokenalert.settings SELECT * FROM tokenalert_archive.settings;
        INSERT INTO tokenalert.user_limits SELECT * FROM tokenalert_archive.user_limits;
        INSERT INTO tokenalert.granted_roles SELECT * FROM tokenalert_archive.granted_roles;
    END IF;
END
$do$;
-- +goose StatementEnd

-- +goose Down
DROP VIEW tokenalert.current_usage;
DROP FUNCTION tokenalert.accounts();
DROP FUNCTION tokenalert.host_privileges(name);
DROP TABLE tokenalert.takeover, tokenalert.granted_roles, tokenalert.user_limits, tokenalert.settings,
    tokenalert.recounts, tokenalert.usage_periods, tokenalert.ticks;
DROP SEQUENCE tokenalert.doorbell;
