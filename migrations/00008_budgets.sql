-- +goose Up
-- Budgets: a limit for an organization. Rows of usage say which organization they
-- belong to, so what its members use adds up by that, wherever they are later.
SET LOCAL lock_timeout = '60ms';

ALTER TABLE tokenalert.policies
    ADD COLUMN budget bigint CONSTRAINT policies_budget_check CHECK (budget BETWEEN 1 AND 1000000000000000),
    ADD COLUMN budget_reset_day integer CONSTRAINT policies_budget_reset_day_check CHECK (budget_reset_day BETWEEN 1 AND 31),
    ADD COLUMN budget_time_zone text,
    ADD CONSTRAINT policies_budget_of_organization_check CHECK (budget IS NULL OR organization_id IS NOT NULL),
    ADD CONSTRAINT policies_budget_whole_check CHECK (num_nonnulls(budget, budget_reset_day, budget_time_zone) IN (0, 3));
COMMENT ON COLUMN tokenalert.policies.budget IS 'Tokens that the members of the organization may use in a period together; its admins are told';
COMMENT ON COLUMN tokenalert.policies.budget_reset_day IS 'Day of the month on which that period begins; beyond the month''s end: its last day';
COMMENT ON COLUMN tokenalert.policies.budget_time_zone IS 'Zone in which it begins at midnight';

-- What ticks need to know of budgets, as policies set them.
CREATE TABLE tokenalert.budgets (
    organization_id uuid        CONSTRAINT budgets_pkey PRIMARY KEY,
    token_limit     bigint      NOT NULL,
    reset_day       integer     NOT NULL,
    time_zone       text        NOT NULL,
    since           timestamptz NOT NULL,
    version         bigint      NOT NULL,
    added           integer[]   NOT NULL DEFAULT '{}',
    counted         boolean     NOT NULL DEFAULT false
);
CREATE INDEX budgets_uncounted_idx ON tokenalert.budgets (organization_id) WHERE NOT counted;
COMMENT ON TABLE tokenalert.budgets IS 'Budgets in force, from the policies that set them; what ticks go by';
COMMENT ON COLUMN tokenalert.budgets.since IS 'Start of the first period that is counted';
COMMENT ON COLUMN tokenalert.budgets.version IS 'Of the policy that began it: one that is removed and set again is another budget';
COMMENT ON COLUMN tokenalert.budgets.added IS 'As policies.added, but empty where the budget changed with the thresholds: it is told of anew';
COMMENT ON COLUMN tokenalert.budgets.counted IS 'Whether what had been used before the budget was set is counted; until then nobody is told';

-- What each user has used of it, so that a correction of one user''s rows counts
-- these alone, and not the organization''s.
CREATE TABLE tokenalert.budget_shares (
    organization_id uuid        NOT NULL,
    period_start    timestamptz NOT NULL,
    user_id         uuid        NOT NULL,
    tokens_used     numeric     NOT NULL,
    CONSTRAINT budget_shares_pkey PRIMARY KEY (organization_id, period_start, user_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE tokenalert.budget_shares IS 'Tokens of a budget used per user and period, as of the newest tick';

-- The sum of the shares.
CREATE TABLE tokenalert.budget_periods (
    organization_id uuid        NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    tokens_used     numeric     NOT NULL,
    marks           integer[]   NOT NULL DEFAULT '{}',
    tick_id         bigint      NOT NULL,
    policy_seen     bigint      NOT NULL DEFAULT 0,
    CONSTRAINT budget_periods_pkey PRIMARY KEY (organization_id, period_start)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 100);
COMMENT ON TABLE tokenalert.budget_periods IS 'Tokens of a budget used per period, as of the newest tick. The columns are as in usage_periods';

-- One row for each threshold that was crossed.
CREATE TABLE tokenalert.budget_alerts (
    id              uuid        CONSTRAINT budget_alerts_pkey PRIMARY KEY,
    organization_id uuid        NOT NULL,
    alert_threshold integer     NOT NULL,
    alert_sent      boolean     NOT NULL,
    created_at      timestamptz NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    token_limit     bigint      NOT NULL,
    tokens_used     numeric     NOT NULL,
    percent_used    numeric     NOT NULL,
    reason          text        CONSTRAINT budget_alerts_reason_check CHECK (reason IN
        ('superseded', 'period_closed', 'threshold_added', 'carried_over', 'backfill', 'muted', 'no_admin')),
    admins_told     integer     NOT NULL,
    notification_id uuid        NOT NULL,
    tick_id         bigint      NOT NULL,
    CONSTRAINT budget_alerts_told_once UNIQUE (organization_id, period_start, alert_threshold, token_limit)
);
CREATE INDEX budget_alerts_created_at_idx ON tokenalert.budget_alerts (created_at);
COMMENT ON TABLE tokenalert.budget_alerts IS 'Thresholds of budgets that were crossed, as token_limit_alerts has those of users';
COMMENT ON COLUMN tokenalert.budget_alerts.notification_id IS 'What the ids of the admins'' notifications derive from';

-- budget_changes_begin: a budget is whole, and its zone is one.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.budget_changes_begin() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF NEW.budget IS NULL THEN
        NEW.budget_reset_day := NULL;
        NEW.budget_time_zone := NULL;
        RETURN NEW;
    END IF;
    NEW.budget_reset_day := coalesce(NEW.budget_reset_day, 1);
    NEW.budget_time_zone := coalesce(NEW.budget_time_zone, NEW.time_zone, (SELECT s.time_zone FROM tokenalert.settings s), 'UTC');
    IF NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = NEW.budget_time_zone) THEN
        RAISE EXCEPTION 'unknown time zone %', quote_literal(NEW.budget_time_zone)
            USING ERRCODE = '22023', HINT = 'SELECT name FROM pg_timezone_names';
    END IF;
    RETURN NEW;
END
$body$;
-- +goose StatementEnd

-- budget_changes_end: puts a budget in force. One that is new, or whose periods
-- begin otherwise than before, is counted anew: a worker lists those who have used
-- of it (BeginBudgets), once its ticks add up what comes. What it has listed of the
-- one before stays, for ticks take it: who changes a policy and does not commit
-- must hold up none.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.budget_changes_end() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF NEW.organization_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF NEW.budget IS NULL THEN
        DELETE FROM tokenalert.budgets b WHERE b.organization_id = NEW.organization_id;
        RETURN NULL;
    END IF;
    UPDATE tokenalert.budgets b SET token_limit = NEW.budget, added = CASE WHEN b.token_limit = NEW.budget THEN NEW.added ELSE '{}' END
    WHERE b.organization_id = NEW.organization_id AND (b.reset_day, b.time_zone) = (NEW.budget_reset_day, NEW.budget_time_zone);
    IF NOT FOUND THEN
        DELETE FROM tokenalert.budgets b WHERE b.organization_id = NEW.organization_id;
        INSERT INTO tokenalert.budgets (organization_id, token_limit, reset_day, time_zone, since, version)
        VALUES (NEW.organization_id, NEW.budget, NEW.budget_reset_day, NEW.budget_time_zone,
                tokenalert.period_start(NEW.budget_reset_day, NEW.budget_time_zone, tokenalert.now()), NEW.version);
    END IF;
    INSERT INTO tokenalert.recounts (organization_id, cause) VALUES (NEW.organization_id, 'policy_changed');
    RETURN NULL;
END
$body$;
-- +goose StatementEnd
CREATE TRIGGER begin_budget BEFORE INSERT OR UPDATE ON tokenalert.policies FOR EACH ROW EXECUTE FUNCTION tokenalert.budget_changes_begin();
CREATE TRIGGER budget AFTER INSERT OR UPDATE ON tokenalert.policies FOR EACH ROW EXECUTE FUNCTION tokenalert.budget_changes_end();
REVOKE ALL ON FUNCTION tokenalert.budget_changes_begin() FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.budget_changes_end() FROM PUBLIC;

-- As in 00007, but that only those whom the policy is about may not have been
-- decided under it: somebody who is set aside elsewhere is none of them. The two
-- functions outlive `down` to 00007.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tokenalert.policy_changes_begin() RETURNS trigger
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
        IF OLD.added <> '{}' AND EXISTS (
            SELECT FROM tokenalert.recounts r
            WHERE r.cause IN ('policy_changed', 'held', 'undecided', 'set_aside')
              AND (r.organization_id = NEW.organization_id
                   OR EXISTS (SELECT FROM tokenalert.accounts() a
                              WHERE a.user_id = r.user_id AND (a.user_id = NEW.user_id OR a.organization_id = NEW.organization_id)))) THEN
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

-- As in 00007, but that nobody is decided anew for the organization's budget, which
-- is none of theirs: budget_changes_end has that decided.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tokenalert.policy_changes_end() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    before jsonb := '{}';
    after jsonb := jsonb_strip_nulls(to_jsonb(NEW) - '{organization_id,user_id,added,version,changed_at}'::text[]);
    budget text[] := '{budget,budget_reset_day,budget_time_zone}';
BEGIN
    IF TG_OP = 'UPDATE' THEN
        before := jsonb_strip_nulls(to_jsonb(OLD) - '{organization_id,user_id,added,version,changed_at}'::text[]);
    END IF;
    INSERT INTO tokenalert.policy_changes (version, changed_at, role, organization_id, user_id, before, after)
    VALUES (NEW.version, NEW.changed_at, session_user, NEW.organization_id, NEW.user_id, before, after);
    IF NEW.added <> '{}' OR before - budget <> after - budget THEN
        -- In another zone a period begins at another time, and is counted anew.
        INSERT INTO tokenalert.recounts (user_id, at, cause)
        SELECT a.user_id, CASE WHEN NEW.time_zone IS DISTINCT FROM before ->> 'time_zone' THEN now() END, 'policy_changed' FROM tokenalert.accounts() a
        WHERE a.user_id = NEW.user_id OR a.organization_id = NEW.organization_id;
    END IF;
    IF current_setting('max_prepared_transactions') = '0' AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('tokenalert', '');
    END IF;
    RETURN NULL;
END
$body$;
-- +goose StatementEnd

-- What an earlier `down` kept; 00006 put it here.
-- +goose StatementBegin
DO $do$
DECLARE
    kept text;
BEGIN
    FOREACH kept IN ARRAY '{archived_budget_policies,archived_budgets,archived_budget_shares,archived_budget_periods,archived_budget_alerts}'::text[] LOOP
        IF to_regclass('tokenalert_archive.' || kept) IS NOT NULL THEN -- a down that went no further
            EXECUTE format('ALTER TABLE tokenalert_archive.%I SET SCHEMA tokenalert', kept);
        END IF;
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('tokenalert_archive')) THEN
        DROP SCHEMA IF EXISTS tokenalert_archive;
    END IF;
    IF to_regclass('tokenalert.archived_budgets') IS NOT NULL THEN
        ALTER TABLE tokenalert.policies DISABLE TRIGGER USER;
        UPDATE tokenalert.policies p SET budget = a.budget, budget_reset_day = a.budget_reset_day, budget_time_zone = a.budget_time_zone
        FROM tokenalert.archived_budget_policies a WHERE a.organization_id = p.organization_id;
        ALTER TABLE tokenalert.policies ENABLE TRIGGER USER;
        INSERT INTO tokenalert.budgets SELECT * FROM tokenalert.archived_budgets;
        INSERT INTO tokenalert.budget_shares SELECT * FROM tokenalert.archived_budget_shares;
        INSERT INTO tokenalert.budget_periods SELECT * FROM tokenalert.archived_budget_periods;
        INSERT INTO tokenalert.budget_alerts SELECT * FROM tokenalert.archived_budget_alerts;
        DROP TABLE tokenalert.archived_budget_policies, tokenalert.archived_budgets, tokenalert.archived_budget_shares,
            tokenalert.archived_budget_periods, tokenalert.archived_budget_alerts;
        -- Shares of the time in between: a chain that goes on has not counted them. What
        -- lies before the previous period is history.
        UPDATE tokenalert.budgets b SET counted = false, since = greatest(b.since, tokenalert.period_start(b.reset_day, z.time_zone,
            tokenalert.period_start(b.reset_day, z.time_zone, tokenalert.now()) - interval '1 microsecond'))
        FROM (SELECT o.organization_id, -- as ticks do
                     CASE WHEN o.time_zone IN (SELECT n.name FROM pg_timezone_names n) THEN o.time_zone
                          ELSE coalesce((SELECT s.time_zone FROM tokenalert.settings s), 'UTC') END AS time_zone
              FROM tokenalert.budgets o OFFSET 0) z
        WHERE z.organization_id = b.organization_id;
    END IF;
END
$do$;
-- +goose StatementEnd

-- recipient: as in 00007, and of a budget's alert whichever admin of the organization
-- the job says that runs. What an organization says to its users of their limits is
-- not what it says to admins, of somebody's alert or of the budget, so each has a
-- template of its own. It outlives `down` to 00007, where there are no budgets.
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
    EXECUTE format($sql$
        CREATE OR REPLACE FUNCTION tokenalert.recipient(alert uuid, told uuid)
        RETURNS TABLE (email text, organization_name text, server jsonb, template jsonb)
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $body$
        #variable_conflict use_variable
        DECLARE
            recipient_id uuid;
            organization uuid;
            own_words text := CASE WHEN told IS NULL THEN 'token_limit_alert' ELSE 'token_admin_alert' END;
        BEGIN
            IF NOT EXISTS (SELECT FROM tokenalert.river_job j
                WHERE j.state = 'running' AND j.kind = 'delivery' AND j.queue = 'email'
                  AND j.args ->> 'alert_id' = alert::text AND (j.args ->> 'admin') IS NOT DISTINCT FROM told::text) THEN
                RETURN;
            END IF;
            SELECT coalesce(told, a.user_id), a.organization_id INTO recipient_id, organization FROM %1$s a WHERE a.id = alert;
            IF NOT FOUND AND told IS NOT NULL AND to_regclass('tokenalert.budget_alerts') IS NOT NULL THEN
                SELECT told, a.organization_id INTO recipient_id, organization FROM tokenalert.budget_alerts a WHERE a.id = alert;
                own_words := 'token_budget_alert';
            END IF;
            IF told IS NOT NULL AND NOT EXISTS (SELECT FROM tokenalert.admins(organization) m WHERE m.user_id = told) THEN
                RETURN;
            END IF;
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
                EXECUTE 'SELECT jsonb_build_object(''subject'', left(t.subject_template, 100001), ''body'', left(t.body_template, 100001), ''html'', t.is_html)
                    FROM ' || %4$L || '.organization_email_templates t
                    WHERE t.organization_id = $1 AND t.is_enabled AND t.template_key = $2 LIMIT 1'
                INTO recipient.template USING organization, own_words;
            END IF;
            RETURN NEXT;
        END
        $body$ $sql$,
        (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('token_limit_alerts')),
        users, organizations, host);
END
$do$;
-- +goose StatementEnd

-- What the host reads of budgets. As in 00007, the views read as their owner.
CREATE VIEW tokenalert.current_budgets AS
SELECT b.organization_id,
       greatest(least(coalesce(u.tokens_used, 0), 9223372036854775807), -9223372036854775808)::bigint AS tokens_used,
       b.token_limit,
       trunc(coalesce(u.tokens_used, 0) * 100 / b.token_limit, 1) AS percent_used,
       p.period_start,
       p.period_end AS resets_at,
       b.counted
FROM tokenalert.budgets b
CROSS JOIN LATERAL (
    SELECT tokenalert.period_start(b.reset_day, b.time_zone, tokenalert.now()) AS period_start,
           tokenalert.period_end(b.reset_day, b.time_zone, tokenalert.now()) AS period_end
    OFFSET 0
) p
LEFT JOIN tokenalert.budget_periods u ON u.organization_id = b.organization_id AND u.period_start = p.period_start;
COMMENT ON VIEW tokenalert.current_budgets IS 'What the members of each organization with a budget have used of it in the current period, as of the newest tick';
COMMENT ON COLUMN tokenalert.current_budgets.organization_id IS 'organizations.id';
COMMENT ON COLUMN tokenalert.current_budgets.tokens_used IS 'Tokens of rows of the organization since period_start, by whoever is or was its member; 0 where there are none. What does not fit a bigint is its nearest';
COMMENT ON COLUMN tokenalert.current_budgets.token_limit IS 'Tokens that the budget allows for a period';
COMMENT ON COLUMN tokenalert.current_budgets.percent_used IS 'Of token_limit, cut after one decimal, so that 100.0 means reached';
COMMENT ON COLUMN tokenalert.current_budgets.period_start IS 'When the period began: midnight of the budget''s reset day in its zone';
COMMENT ON COLUMN tokenalert.current_budgets.resets_at IS 'When the next period begins, and tokens_used is 0 again';
COMMENT ON COLUMN tokenalert.current_budgets.counted IS 'false: the budget has been set a moment ago, and what was used before is being counted';

CREATE VIEW tokenalert.current_budget_shares AS
SELECT b.organization_id,
       s.user_id,
       greatest(least(s.tokens_used, 9223372036854775807), -9223372036854775808)::bigint AS tokens_used
FROM tokenalert.budgets b
JOIN tokenalert.budget_shares s ON s.organization_id = b.organization_id
 AND s.period_start = tokenalert.period_start(b.reset_day, b.time_zone, tokenalert.now())
WHERE s.tokens_used <> 0;
COMMENT ON VIEW tokenalert.current_budget_shares IS 'Who has used what of a budget in the current period, as of the newest tick; it adds up to current_budgets';
COMMENT ON COLUMN tokenalert.current_budget_shares.organization_id IS 'Whose budget it is';
COMMENT ON COLUMN tokenalert.current_budget_shares.user_id IS 'users.id, of whoever used it, in whatever organization they are now; they may be gone';
COMMENT ON COLUMN tokenalert.current_budget_shares.tokens_used IS 'Tokens of their rows of this organization since the period began';

CREATE VIEW tokenalert.budget_history AS
SELECT a.id AS alert_id,
       a.organization_id,
       a.alert_threshold AS threshold,
       a.token_limit,
       a.tokens_used::bigint AS tokens_used,
       trunc(a.percent_used, 1) AS percent_used,
       a.period_start,
       a.period_end AS resets_at,
       a.created_at AS crossed_at,
       a.alert_sent AS told,
       CASE WHEN a.alert_sent THEN a.created_at END AS told_at,
       a.admins_told,
       a.reason
FROM tokenalert.budget_alerts a;
COMMENT ON VIEW tokenalert.budget_history IS 'Every threshold of a budget that was crossed, of any time';
COMMENT ON COLUMN tokenalert.budget_history.alert_id IS 'The same organization, period, threshold and limit give the same id';
COMMENT ON COLUMN tokenalert.budget_history.organization_id IS 'organizations.id, which may be gone';
COMMENT ON COLUMN tokenalert.budget_history.threshold IS 'In percent of the budget';
COMMENT ON COLUMN tokenalert.budget_history.token_limit IS 'The budget as it was';
COMMENT ON COLUMN tokenalert.budget_history.tokens_used IS 'What was used when the crossing was seen';
COMMENT ON COLUMN tokenalert.budget_history.percent_used IS 'tokens_used of token_limit, cut after one decimal';
COMMENT ON COLUMN tokenalert.budget_history.period_start IS 'When the period began in which it was crossed';
COMMENT ON COLUMN tokenalert.budget_history.resets_at IS 'When that period ended, or will';
COMMENT ON COLUMN tokenalert.budget_history.crossed_at IS 'When the crossing was seen, milliseconds after the usage committed';
COMMENT ON COLUMN tokenalert.budget_history.told IS 'Whether anybody was told';
COMMENT ON COLUMN tokenalert.budget_history.told_at IS 'When the admins were told; NULL: they were not';
COMMENT ON COLUMN tokenalert.budget_history.admins_told IS 'How many admins got a notification';
COMMENT ON COLUMN tokenalert.budget_history.reason IS 'Why nobody was told: as in alert_history, or no_admin (the organization has none who is not muted); NULL: told';

-- Last, since the host waits from here to the end: where it changes users, limits or
-- usage first, and where it inserts then.

-- A correction says of which organization the row was that it is about. Without a
-- user it asks for a decision on the organization''s budget; without both, for a
-- full count. The columns outlive `down`, which keeps the functions that know them.
ALTER TABLE tokenalert.recounts ADD COLUMN IF NOT EXISTS organization_id uuid, ADD COLUMN IF NOT EXISTS budget_version bigint;
COMMENT ON COLUMN tokenalert.recounts.user_id IS 'NULL, and no organization_id: everybody, by a full count';
COMMENT ON COLUMN tokenalert.recounts.organization_id IS 'Whose budget the usage belonged to; without user_id: decide on that budget anew';
COMMENT ON COLUMN tokenalert.recounts.budget_version IS 'Which budget is counted once this is dealt with; of one that was changed meanwhile it says nothing';

-- As in 00005, with the organization.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tokenalert.record_correction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    CASE TG_ARGV[0]
    WHEN 'usage_changed' THEN
        INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause)
        SELECT DISTINCT c.user_id, c.organization_id, c.at, TG_ARGV[0]
        FROM (VALUES (OLD.user_id, OLD.organization_id, OLD.created_at), (NEW.user_id, NEW.organization_id, NEW.created_at)) AS c (user_id, organization_id, at)
        WHERE c.user_id IS NOT NULL AND c.at IS NOT NULL;
    WHEN 'usage_deleted' THEN
        INSERT INTO tokenalert.recounts (user_id, organization_id, at, cause) VALUES (OLD.user_id, OLD.organization_id, OLD.created_at, TG_ARGV[0]);
    WHEN 'usage_truncated' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES (NULL, NULL, TG_ARGV[0]);
    WHEN 'user_added', 'user_changed' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES (NEW.id, now(), TG_ARGV[0]);
    WHEN 'user_deleted' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES (OLD.id, now(), TG_ARGV[0]);
    WHEN 'limit_changed' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES (NEW.id, NULL, TG_ARGV[0]);
    WHEN 'limits_changed' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause)
        VALUES (CASE WHEN TG_OP = 'DELETE' THEN OLD.user_id ELSE NEW.user_id END, now(), TG_ARGV[0]);
    END CASE;
    IF pg_sequence_last_value('tokenalert.doorbell') > date_part('epoch', clock_timestamp())
       AND pg_notification_queue_usage() < 0.5 THEN
        IF current_setting('max_prepared_transactions') <> '0' THEN
            IF (SELECT s.bell_forced FROM tokenalert.settings s) IS NOT TRUE THEN
                RETURN NULL;
            END IF;
        END IF;
        PERFORM pg_notify('tokenalert', '');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'tokenalert: correction not recorded, reconcile will find it (%): %', SQLSTATE, SQLERRM;
    RETURN NULL;
END
$body$;
-- +goose StatementEnd

-- What a worker that leads throughout sees of an archived budget.
INSERT INTO tokenalert.recounts (organization_id, cause) SELECT organization_id, 'policy_changed' FROM tokenalert.budgets;

CREATE OR REPLACE TRIGGER tokenalert_usage_changed AFTER UPDATE ON ai_usage_logs FOR EACH ROW
    WHEN ((OLD.user_id, OLD.organization_id, OLD.tokens_used, OLD.created_at) IS DISTINCT FROM (NEW.user_id, NEW.organization_id, NEW.tokens_used, NEW.created_at)
          AND (OLD.created_at >= now() - interval '32 days' OR NEW.created_at >= now() - interval '32 days'))
    EXECUTE FUNCTION tokenalert.record_correction('usage_changed');

-- +goose Down
-- What commits between a copy and its DROP would be lost: an alert, which would be
-- told again, or a budget.
SET LOCAL lock_timeout = '60ms';
LOCK TABLE tokenalert.policies, tokenalert.budgets, tokenalert.budget_shares, tokenalert.budget_periods, tokenalert.budget_alerts IN ACCESS EXCLUSIVE MODE;

-- As in 00007, which would stop later.
-- +goose StatementBegin
DO $do$
DECLARE
    dependents text;
BEGIN
    SELECT string_agg(DISTINCT c.oid::regclass::text, ', ') INTO dependents
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass JOIN pg_class c ON c.oid = r.ev_class
    WHERE d.refobjid IN ('tokenalert.current_usage'::regclass, 'tokenalert.alert_history'::regclass,
                         'tokenalert.current_budgets'::regclass, 'tokenalert.current_budget_shares'::regclass,
                         'tokenalert.budget_history'::regclass)
      AND c.oid <> d.refobjid;
    IF dependents IS NOT NULL THEN
        RAISE EXCEPTION 'other views read ours; drop them first: %', dependents;
    END IF;
END
$do$;
-- +goose StatementEnd
DROP VIEW tokenalert.current_budgets, tokenalert.current_budget_shares, tokenalert.budget_history;
CREATE SCHEMA IF NOT EXISTS tokenalert_archive;
CREATE TABLE tokenalert_archive.archived_budget_policies AS
    SELECT organization_id, budget, budget_reset_day, budget_time_zone FROM tokenalert.policies WHERE budget IS NOT NULL;
CREATE TABLE tokenalert_archive.archived_budgets AS SELECT * FROM tokenalert.budgets;
CREATE TABLE tokenalert_archive.archived_budget_shares AS SELECT * FROM tokenalert.budget_shares;
CREATE TABLE tokenalert_archive.archived_budget_periods AS SELECT * FROM tokenalert.budget_periods;
CREATE TABLE tokenalert_archive.archived_budget_alerts AS SELECT * FROM tokenalert.budget_alerts;
DROP TRIGGER budget ON tokenalert.policies;
DROP TRIGGER begin_budget ON tokenalert.policies;
DROP FUNCTION tokenalert.budget_changes_begin(), tokenalert.budget_changes_end();
DROP TABLE tokenalert.budgets, tokenalert.budget_shares, tokenalert.budget_periods, tokenalert.budget_alerts;
ALTER TABLE tokenalert.policies DROP COLUMN budget, DROP COLUMN budget_reset_day, DROP COLUMN budget_time_zone;
-- To an older binary a correction without a user is one of everybody. The column
-- stays, with the trigger and its function, which would be no better without it.
DELETE FROM tokenalert.recounts WHERE organization_id IS NOT NULL AND (user_id IS NULL OR cause = 'budget_begins');
