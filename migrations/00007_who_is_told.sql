-- +goose Up
-- Policies: where an organization, or a user, is told otherwise than the settings
-- say. A column that is NULL says nothing, so a user's counts before that of their
-- organization, and that before the settings.
SET LOCAL lock_timeout = '60ms';

-- are_thresholds: one to ten percentages from 1 to 1000, ascending.
CREATE FUNCTION tokenalert.are_thresholds(list integer[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN cardinality(list) BETWEEN 1 AND 10
       AND list = ARRAY(SELECT DISTINCT t FROM unnest(list) AS t WHERE t BETWEEN 1 AND 1000 ORDER BY t);

CREATE SEQUENCE tokenalert.policy_version;
CREATE TABLE tokenalert.policies (
    organization_id uuid        CONSTRAINT policies_organization_key UNIQUE,
    user_id         uuid        CONSTRAINT policies_user_key UNIQUE,
    thresholds      integer[]   CONSTRAINT policies_thresholds_check CHECK (tokenalert.are_thresholds(thresholds)),
    time_zone       text,
    language        text        CONSTRAINT policies_language_check CHECK (language IN ('es', 'en', 'pt')),
    channels        text[]      CONSTRAINT policies_channels_check CHECK (channels <@ '{notification,email,webhook}'::text[]),
    muted_until     timestamptz,
    admins_from     integer     CONSTRAINT policies_admins_from_check CHECK (admins_from BETWEEN 0 AND 1000),
    added           integer[]   NOT NULL,
    version         bigint      NOT NULL,
    changed_at      timestamptz NOT NULL,
    CONSTRAINT policies_of_one_check CHECK (num_nonnulls(organization_id, user_id) = 1)
);
CREATE INDEX policies_lowest_idx ON tokenalert.policies ((thresholds[1])) WHERE thresholds IS NOT NULL;
CREATE INDEX policies_time_zone_idx ON tokenalert.policies (time_zone) WHERE time_zone IS NOT NULL;
CREATE INDEX policies_version_idx ON tokenalert.policies (version);
COMMENT ON TABLE tokenalert.policies IS 'Who is told otherwise than the settings say; by `tokenalert policy`. What is NULL says nothing';
COMMENT ON COLUMN tokenalert.policies.thresholds IS 'Percent of the limit, ascending';
COMMENT ON COLUMN tokenalert.policies.time_zone IS 'Zone in which periods begin at midnight, as in pg_timezone_names';
COMMENT ON COLUMN tokenalert.policies.language IS 'Of an organization: for users who have none';
COMMENT ON COLUMN tokenalert.policies.channels IS 'By which alerts are delivered besides the notification, of those that are set up';
COMMENT ON COLUMN tokenalert.policies.muted_until IS 'Until then crossings are recorded, and nobody is told';
COMMENT ON COLUMN tokenalert.policies.admins_from IS 'Lowest threshold of which the admins of the organization are told too; 0: of none';
COMMENT ON COLUMN tokenalert.policies.added IS 'Thresholds that the last change gained';
COMMENT ON COLUMN tokenalert.policies.version IS 'Rises with each change of any policy';

CREATE TABLE tokenalert.policy_changes (
    version         bigint      CONSTRAINT policy_changes_pkey PRIMARY KEY,
    changed_at      timestamptz NOT NULL,
    role            name        NOT NULL,
    organization_id uuid,
    user_id         uuid,
    before          jsonb       NOT NULL,
    after           jsonb       NOT NULL
);
COMMENT ON TABLE tokenalert.policy_changes IS 'Every change of a policy: when, by which role, from what to what';

-- The version under which a total was made or last decided: what a later one
-- gained is not crossed by usage that stood above it already.
ALTER TABLE tokenalert.usage_periods ADD COLUMN policy_seen bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN tokenalert.usage_periods.policy_seen IS 'Newest policy that was in force when the total began or was last decided under another one';

-- policy_changes_begin: what a change makes of a policy. Changes come one after
-- the other, so that versions commit in their order.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.policy_changes_begin() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    settings integer[] := coalesce((SELECT s.thresholds FROM tokenalert.settings s), '{80,90,100}');
    otherwise integer[] := settings; -- in force where the policy says nothing
    had integer[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'a policy is not deleted, which would forget what was told under it: set its columns to NULL'
            USING HINT = 'tokenalert policy remove';
    END IF;
    PERFORM pg_advisory_xact_lock(8390042714202270830); -- "tokenaln"
    IF NEW.time_zone IS NOT NULL AND NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = NEW.time_zone) THEN
        RAISE EXCEPTION 'unknown time zone %', quote_literal(NEW.time_zone)
            USING ERRCODE = '22023', HINT = 'SELECT name FROM pg_timezone_names';
    END IF;
    IF NEW.user_id IS NOT NULL THEN
        otherwise := coalesce((SELECT p.thresholds FROM tokenalert.policies p, tokenalert.accounts() a
                               WHERE a.user_id = NEW.user_id AND p.organization_id = a.organization_id), settings);
    END IF;
    had := otherwise;
    NEW.added := '{}';
    IF TG_OP = 'UPDATE' THEN
        had := coalesce(OLD.thresholds, otherwise);
        IF EXISTS (SELECT FROM tokenalert.recounts r WHERE r.cause IN ('policy_changed', 'held', 'undecided', 'set_aside')) THEN
            NEW.added := OLD.added; -- not everybody has been decided under it
        END IF;
    END IF;
    NEW.added := ARRAY(SELECT DISTINCT t FROM unnest(coalesce(NEW.thresholds, otherwise)) AS t
                       WHERE t <> ALL (had) OR t = ANY (NEW.added) ORDER BY t);
    NEW.version := nextval('tokenalert.policy_version');
    NEW.changed_at := clock_timestamp();
    RETURN NEW;
END
$body$;
-- +goose StatementEnd

-- policy_changes_end: notes the change, and has those decided anew whom it is
-- about.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.policy_changes_end() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    before jsonb := '{}';
BEGIN
    IF TG_OP = 'UPDATE' THEN
        before := to_jsonb(OLD);
    END IF;
    INSERT INTO tokenalert.policy_changes (version, changed_at, role, organization_id, user_id, before, after)
    VALUES (NEW.version, NEW.changed_at, session_user, NEW.organization_id, NEW.user_id,
            jsonb_strip_nulls(before - '{organization_id,user_id,added,version,changed_at}'::text[]),
            jsonb_strip_nulls(to_jsonb(NEW) - '{organization_id,user_id,added,version,changed_at}'::text[]));
    -- In another zone a period begins at another time, and is counted anew.
    INSERT INTO tokenalert.recounts (user_id, at, cause)
    SELECT a.user_id, CASE WHEN NEW.time_zone IS DISTINCT FROM before ->> 'time_zone' THEN now() END, 'policy_changed' FROM tokenalert.accounts() a
    WHERE a.user_id = NEW.user_id OR a.organization_id = NEW.organization_id;
    IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('tokenalert', '');
    END IF;
    RETURN NULL;
END
$body$;
-- +goose StatementEnd
CREATE TRIGGER begin BEFORE INSERT OR UPDATE OR DELETE ON tokenalert.policies FOR EACH ROW EXECUTE FUNCTION tokenalert.policy_changes_begin();
CREATE TRIGGER finish AFTER INSERT OR UPDATE ON tokenalert.policies FOR EACH ROW EXECUTE FUNCTION tokenalert.policy_changes_end();
REVOKE ALL ON FUNCTION tokenalert.policy_changes_begin() FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.policy_changes_end() FROM PUBLIC;

-- What an earlier `down` kept; 00006 put it here.
-- +goose StatementBegin
DO $do$
BEGIN
    IF to_regclass('tokenalert_archive.policies') IS NOT NULL THEN -- a down that went no further
        ALTER TABLE tokenalert_archive.policies RENAME TO archived_policies;
        ALTER TABLE tokenalert_archive.archived_policies SET SCHEMA tokenalert;
        ALTER TABLE tokenalert_archive.policy_changes RENAME TO archived_policy_changes;
        ALTER TABLE tokenalert_archive.archived_policy_changes SET SCHEMA tokenalert;
    END IF;
    IF to_regclass('tokenalert.archived_policies') IS NOT NULL THEN
        ALTER TABLE tokenalert.policies DISABLE TRIGGER USER;
        INSERT INTO tokenalert.policies SELECT * FROM tokenalert.archived_policies;
        ALTER TABLE tokenalert.policies ENABLE TRIGGER USER;
        INSERT INTO tokenalert.policy_changes SELECT * FROM tokenalert.archived_policy_changes;
        PERFORM setval('tokenalert.policy_version', greatest((SELECT max(version) FROM tokenalert.policy_changes), 1));
        UPDATE tokenalert.usage_periods SET policy_seen = (SELECT max(version) FROM tokenalert.policies)
        WHERE EXISTS (SELECT FROM tokenalert.policies);
        DROP TABLE tokenalert.archived_policies, tokenalert.archived_policy_changes;
    END IF;
END
$do$;
-- +goose StatementEnd

-- Delivering: alerts on their way to where the host's page does not show them.
-- The jobs are River's (tables river_… of this schema, which `migrate up` makes
-- before these files); what follows is what a job has to know and to write, and
-- the worker's role may not by itself.

-- recipient: whom the alert of an e-mail that is being delivered right now goes
-- to, and by which server. So the worker's role has no right on addresses or on
-- passwords of mail servers, and asks for those of one alert at a time. A role
-- that writes jobs can pretend to deliver, though: see SECURITY.md.
-- Both tables of the host may be absent, or come later.
-- +goose StatementBegin
DO $do$
DECLARE
    host text; -- the schema of the host's tables
    users text;
    organizations text;
BEGIN
    SELECT format('%I', n.nspname), format('%I.%I', n.nspname, c.relname) INTO host, users
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('users');
    SELECT format('%I.%I', n.nspname, c.relname) INTO organizations
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('organizations');

    -- admins: who may be told of others, by their own policies. A host whose users
    -- have no roles has none.
    EXECUTE format($sql$
        CREATE FUNCTION tokenalert.admins(organization uuid)
        RETURNS TABLE (user_id uuid, full_name text, language text, channels text[], muted boolean)
        LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
        AS $body$
        #variable_conflict use_variable -- the host may have columns of any name
        BEGIN
            RETURN QUERY SELECT u.id, u.full_name::text, coalesce(p.language, %s), coalesce(p.channels, o.channels),
                   coalesce(coalesce(p.muted_until, o.muted_until) > tokenalert.now(), false)
            FROM %s u LEFT JOIN tokenalert.policies p ON p.user_id = u.id
            LEFT JOIN tokenalert.policies o ON o.organization_id = u.organization_id
            WHERE u.organization_id = organization AND %s ORDER BY u.id LIMIT 100;
        EXCEPTION WHEN undefined_column THEN -- the host has taken it away
            RAISE WARNING 'tokenalert: admins are not told (%%): %%', SQLSTATE, SQLERRM;
        END
        $body$ $sql$,
        CASE WHEN EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users') AND attname = 'language' AND NOT attisdropped)
             THEN 'u.language::text' ELSE 'NULL::text' END,
        users,
        CASE WHEN EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users') AND attname = 'role' AND NOT attisdropped)
             THEN 'u.role = ''admin''' ELSE 'false' END);
    EXECUTE format($sql$
        CREATE FUNCTION tokenalert.recipient(alert uuid, told uuid)
        RETURNS TABLE (email text, organization_name text, server jsonb, template jsonb)
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $body$
        #variable_conflict use_variable
        DECLARE
            recipient_id uuid;
            organization uuid;
        BEGIN
            SELECT coalesce(told, a.user_id), a.organization_id INTO recipient_id, organization
            FROM %1$s a
            WHERE a.id = alert AND (told IS NULL OR told IN (SELECT m.user_id FROM tokenalert.admins(a.organization_id) m)) AND EXISTS (SELECT FROM tokenalert.river_job j
                WHERE j.state = 'running' AND j.kind = 'delivery' AND j.queue = 'email' AND j.args ->> 'alert_id' = alert::text);
            SELECT u.email::text INTO recipient.email FROM %2$s u WHERE u.id = recipient_id;
            IF NOT FOUND THEN
                RETURN;
            END IF;
            SELECT o.name::text INTO recipient.organization_name FROM %3$s o WHERE o.id = organization;
            IF to_regclass(%4$L || '.organization_email_services') IS NOT NULL THEN
                EXECUTE 'SELECT jsonb_build_object(''host'', s.smtp_host, ''port'', s.smtp_port, ''from'', s.smtp_from,
                        ''username'', s.smtp_username, ''password'', s.smtp_password, ''starttls'', s.smtp_starttls)
                    FROM ' || %4$L || '.organization_email_services s
                    WHERE s.organization_id = $1 AND s.is_enabled AND s.is_default AND s.service_type = ''smtp'' LIMIT 1'
                INTO recipient.server USING organization;
            END IF;
            IF to_regclass(%4$L || '.organization_email_templates') IS NOT NULL THEN
                EXECUTE 'SELECT jsonb_build_object(''subject'', t.subject_template, ''body'', t.body_template, ''html'', t.is_html)
                    FROM ' || %4$L || '.organization_email_templates t
                    WHERE t.organization_id = $1 AND t.is_enabled AND t.template_key = ''token_limit_alert'' LIMIT 1'
                INTO recipient.template USING organization;
            END IF;
            RETURN NEXT;
        END
        $body$ $sql$,
        (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('token_limit_alerts')),
        users, organizations, host);

    -- emailed: what the alert row says of the way that its user was told.
    EXECUTE format($sql$
        CREATE FUNCTION tokenalert.emailed(alert uuid) RETURNS void
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $body$
            UPDATE %s SET alert_type = 'both' WHERE id = emailed.alert AND alert_sent AND alert_type = 'notification'
        $body$ $sql$,
        (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('token_limit_alerts')));
END
$do$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tokenalert.recipient(uuid, uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.emailed(uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.admins(uuid) FROM PUBLIC;

-- What the host reads: who has used how much, and who was told what. Both views
-- read as their owner, so whoever reads them needs no right on the tables.
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
        LEFT JOIN tokenalert.policies pu ON pu.user_id = h.id
        LEFT JOIN tokenalert.policies po ON po.organization_id = h.organization_id
        CROSS JOIN LATERAL (SELECT coalesce(pu.time_zone, po.time_zone, s.time_zone) AS time_zone OFFSET 0) z
        CROSS JOIN LATERAL (
            SELECT tokenalert.period_start(%2$s, z.time_zone, tokenalert.now()) AS period_start,
                   tokenalert.period_end(%2$s, z.time_zone, tokenalert.now()) AS period_end
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
COMMENT ON COLUMN tokenalert.current_usage.period_start IS 'When the period began: midnight of the reset day, in the zone of a policy or of the settings';
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
COMMENT ON COLUMN tokenalert.alert_history.how IS 'notification: in the app; both: by e-mail too; rows of the host also email; NULL: not told';
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

-- The newest alerts, and those of a month, without reading all there ever were
-- (what it saves, and what it costs to write: docs/reporting.md). Last: deleting a
-- user waits for it.
CREATE INDEX token_limit_alerts_created_at_idx ON token_limit_alerts (created_at);

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

DROP FUNCTION tokenalert.emailed(uuid);
DROP FUNCTION tokenalert.recipient(uuid, uuid);
DROP FUNCTION tokenalert.admins(uuid);

LOCK TABLE tokenalert.policies, tokenalert.policy_changes IN ACCESS EXCLUSIVE MODE; -- what commits between a copy and its DROP would be lost
CREATE TABLE tokenalert_archive.policies AS SELECT * FROM tokenalert.policies;
CREATE TABLE tokenalert_archive.policy_changes AS SELECT * FROM tokenalert.policy_changes;
ALTER TABLE tokenalert.usage_periods DROP COLUMN policy_seen;
DROP TABLE tokenalert.policies, tokenalert.policy_changes;
DROP FUNCTION tokenalert.policy_changes_begin(), tokenalert.policy_changes_end(), tokenalert.are_thresholds(integer[]);
DROP SEQUENCE tokenalert.policy_version;
