-- +goose Up
-- Taking over: last, and in one transaction, so that at no moment both alert.
-- From here on our triggers ring and record, the host's own is off, and the
-- first full count covers what came before.
SET LOCAL lock_timeout = '60ms';
LOCK TABLE ai_usage_logs IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE;

-- +goose StatementBegin
DO $do$
DECLARE
    host text; -- the schema of the host's tables
    host_trigger "char";
    dropped jsonb := '{}';
    c record;
    created_alerts boolean := to_regclass('token_limit_alerts') IS NULL;
    created_notifications boolean := to_regclass('notifications') IS NULL;
BEGIN
    SELECT n.nspname INTO host FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE t.oid = to_regclass('ai_usage_logs');

    -- Switched off rather than dropped: `down` gives back what was there.
    SELECT t.tgenabled INTO host_trigger FROM pg_trigger t
    WHERE t.tgrelid = to_regclass('ai_usage_logs') AND t.tgname = 'token_limit_check';
    IF host_trigger IS NOT NULL THEN
        ALTER TABLE ai_usage_logs DISABLE TRIGGER token_limit_check;
    END IF;

    IF created_notifications AND to_regclass('tokenalert_archive.notifications') IS NOT NULL THEN
        EXECUTE format('ALTER TABLE tokenalert_archive.notifications SET SCHEMA %I', host);
    ELSIF created_notifications THEN
        EXECUTE format($sql$
            CREATE TABLE %1$I.notifications (
                id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
                organization_id uuid NOT NULL,
                user_id uuid NOT NULL,
                title varchar(255) NOT NULL,
                message text NOT NULL,
                notification_type varchar(50) DEFAULT 'info',
                is_read boolean DEFAULT false,
                link_url varchar(255),
                created_at timestamptz DEFAULT now()
            );
            CREATE INDEX ON %1$I.notifications (user_id);
            CREATE INDEX ON %1$I.notifications (organization_id);
            CREATE INDEX ON %1$I.notifications (user_id) WHERE NOT is_read;
        $sql$, host);
    END IF;

    IF created_alerts THEN
        EXECUTE format($sql$
            CREATE TABLE %1$I.token_limit_alerts (
                id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
                user_id uuid NOT NULL,
                organization_id uuid NOT NULL,
                alert_threshold integer NOT NULL DEFAULT 80,
                alert_sent boolean DEFAULT false,
                alert_type varchar(50) NOT NULL DEFAULT 'email',
                created_at timestamptz DEFAULT now(),
                sent_at timestamptz
            );
            CREATE INDEX idx_token_alerts_org ON %1$I.token_limit_alerts (organization_id);
        $sql$, host);
    ELSE
        LOCK TABLE token_limit_alerts IN ACCESS EXCLUSIVE MODE;
        -- A row per period takes the place of one for ever, and deleting a
        -- user takes the rows along instead of being refused.
        FOR c IN
            SELECT k.conname, pg_get_constraintdef(k.oid) AS definition
            FROM pg_constraint k
            WHERE k.conrelid = to_regclass('token_limit_alerts') AND k.contype IN ('u', 'f')
            ORDER BY k.conname
        LOOP
            EXECUTE format('ALTER TABLE token_limit_alerts DROP CONSTRAINT %I', c.conname);
            dropped := dropped || jsonb_build_object(c.conname, c.definition);
        END LOOP;
    END IF;

    INSERT INTO tokenalert.takeover (host_trigger, host_constraints, created_alerts, created_notifications)
    VALUES (host_trigger, dropped, created_alerts, created_notifications);
END
$do$;
-- +goose StatementEnd

ALTER TABLE token_limit_alerts
    ADD COLUMN period_start timestamptz,
    ADD COLUMN period_end timestamptz,
    ADD COLUMN token_limit bigint,
    ADD COLUMN tokens_used numeric,
    ADD COLUMN percent_used numeric,
    ADD COLUMN reason text CONSTRAINT token_limit_alerts_reason_check CHECK (reason IN
        ('superseded', 'period_closed', 'threshold_added', 'carried_over', 'backfill', 'muted')),
    ADD COLUMN notification_id uuid,
    ADD COLUMN tick_id bigint,
    ADD CONSTRAINT token_limit_alerts_told_once UNIQUE (user_id, period_start, alert_threshold, token_limit),
    ADD CONSTRAINT token_limit_alerts_user_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    ADD CONSTRAINT token_limit_alerts_organization_fkey FOREIGN KEY (organization_id) REFERENCES organizations (id) ON DELETE CASCADE;
COMMENT ON COLUMN token_limit_alerts.period_start IS 'NULL: written by the host before tokenalert took over';
COMMENT ON COLUMN token_limit_alerts.reason IS 'Why nobody was told, where alert_sent is false';
COMMENT ON COLUMN token_limit_alerts.notification_id IS 'The row in notifications that told the user';

-- PostgreSQL reads and compiles a condition anew for each statement, so this one
-- is the shortest there is (docs/performance.md): a silenced bell has no value.
-- Whether the lease has ended is for the function to see.
CREATE TRIGGER tokenalert_ring AFTER INSERT ON ai_usage_logs FOR EACH STATEMENT
    WHEN (pg_sequence_last_value('tokenalert.doorbell'::regclass) IS NOT NULL)
    EXECUTE FUNCTION tokenalert.ring();

-- IS DISTINCT FROM, not UPDATE OF, which misses what a BEFORE trigger changes.
-- Rows that are older than any current period change nothing and pay nothing.
CREATE TRIGGER tokenalert_usage_changed AFTER UPDATE ON ai_usage_logs FOR EACH ROW
    WHEN ((OLD.user_id, OLD.tokens_used, OLD.created_at) IS DISTINCT FROM (NEW.user_id, NEW.tokens_used, NEW.created_at)
          AND (OLD.created_at >= now() - interval '32 days' OR NEW.created_at >= now() - interval '32 days'))
    EXECUTE FUNCTION tokenalert.record_correction('usage_changed');
CREATE TRIGGER tokenalert_usage_deleted AFTER DELETE ON ai_usage_logs FOR EACH ROW
    WHEN (OLD.created_at >= now() - interval '32 days')
    EXECUTE FUNCTION tokenalert.record_correction('usage_deleted');
CREATE TRIGGER tokenalert_usage_truncated AFTER TRUNCATE ON ai_usage_logs FOR EACH STATEMENT
    EXECUTE FUNCTION tokenalert.record_correction('usage_truncated');
CREATE TRIGGER tokenalert_user_added AFTER INSERT ON users FOR EACH ROW
    EXECUTE FUNCTION tokenalert.record_correction('user_added');
CREATE TRIGGER tokenalert_user_deleted AFTER DELETE ON users FOR EACH ROW
    EXECUTE FUNCTION tokenalert.record_correction('user_deleted');
CREATE TRIGGER tokenalert_user_moved AFTER UPDATE ON users FOR EACH ROW
    WHEN (OLD.organization_id IS DISTINCT FROM NEW.organization_id)
    EXECUTE FUNCTION tokenalert.record_correction('user_changed');
CREATE TRIGGER tokenalert_limits_changed AFTER INSERT OR UPDATE OR DELETE ON tokenalert.user_limits FOR EACH ROW
    EXECUTE FUNCTION tokenalert.record_correction('limits_changed');

-- +goose StatementBegin
DO $do$
DECLARE
    kept name;
BEGIN
    -- A changed limit needs a new decision, not a new count.
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
               AND attname = 'monthly_token_limit' AND NOT attisdropped) THEN
        CREATE TRIGGER tokenalert_limit_changed AFTER UPDATE ON users FOR EACH ROW
            WHEN (OLD.monthly_token_limit IS DISTINCT FROM NEW.monthly_token_limit)
            EXECUTE FUNCTION tokenalert.record_correction('limit_changed');
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users')
               AND attname = 'token_limit_reset_day' AND NOT attisdropped) THEN
        CREATE TRIGGER tokenalert_reset_day_changed AFTER UPDATE ON users FOR EACH ROW
            WHEN (OLD.token_limit_reset_day IS DISTINCT FROM NEW.token_limit_reset_day)
            EXECUTE FUNCTION tokenalert.record_correction('user_changed');
    END IF;

    -- What an earlier `down` kept of the host's tables (ours came back before
    -- any lock was taken, in 00004). A row that it gave back to the host is
    -- replaced by the archived one, unless the host has told that user since.
    IF to_regnamespace('tokenalert_archive') IS NOT NULL THEN
        DELETE FROM token_limit_alerts t USING tokenalert_archive.token_limit_alerts a
        WHERE a.id = t.id AND a.sent_at IS NOT DISTINCT FROM t.sent_at AND a.alert_sent IS NOT DISTINCT FROM t.alert_sent;
        UPDATE token_limit_alerts t SET id = gen_random_uuid()
        FROM tokenalert_archive.token_limit_alerts a WHERE a.id = t.id;
        INSERT INTO token_limit_alerts
            (id, user_id, organization_id, alert_threshold, alert_sent, alert_type, created_at, sent_at, period_start,
             period_end, token_limit, tokens_used, percent_used, reason, notification_id, tick_id)
        SELECT a.id, a.user_id, a.organization_id, a.alert_threshold, a.alert_sent, a.alert_type, a.created_at, a.sent_at,
               a.period_start, a.period_end, a.token_limit, a.tokens_used, a.percent_used, a.reason, a.notification_id, a.tick_id
        FROM tokenalert_archive.token_limit_alerts a
        WHERE EXISTS (SELECT FROM users u WHERE u.id = a.user_id)
          AND EXISTS (SELECT FROM organizations o WHERE o.id = a.organization_id);
        IF to_regclass('tokenalert_archive.notifications') IS NOT NULL THEN -- the host has made its own since
            INSERT INTO notifications (id, organization_id, user_id, title, message, notification_type, is_read, link_url, created_at)
            SELECT n.id, n.organization_id, n.user_id, n.title, n.message, n.notification_type, n.is_read, n.link_url, n.created_at
            FROM tokenalert_archive.notifications n ON CONFLICT DO NOTHING;
        END IF;
        IF to_regclass('tokenalert_archive.deliveries') IS NOT NULL THEN
            INSERT INTO tokenalert.river_job (args, kind, max_attempts, queue, created_at)
            SELECT d.args, d.kind, d.max_attempts, d.queue, d.created_at FROM tokenalert_archive.deliveries d;
        END IF;
        IF to_regclass('tokenalert_archive.policies') IS NOT NULL THEN -- 00007 takes them in
            CREATE TABLE tokenalert.archived_policies AS SELECT * FROM tokenalert_archive.policies;
            CREATE TABLE tokenalert.archived_policy_changes AS SELECT * FROM tokenalert_archive.policy_changes;
        END IF;
        IF to_regclass('tokenalert_archive.granted_readers') IS NOT NULL THEN
            ALTER TABLE tokenalert_archive.granted_readers SET SCHEMA tokenalert; -- where 00007 finds it
        END IF;
        FOR kept IN SELECT relname FROM pg_class WHERE relnamespace = 'tokenalert_archive'::regnamespace
                    AND relkind = 'r' AND relname LIKE 'archived\_budget%' LOOP -- 00008 takes them in
            EXECUTE format('ALTER TABLE tokenalert_archive.%I SET SCHEMA tokenalert', kept);
        END LOOP;
        DROP SCHEMA tokenalert_archive CASCADE;
        -- A down that came no further than here has left the chain: what the triggers have
        -- not seen since is found by a full count.
        INSERT INTO tokenalert.recounts (cause) VALUES ('taken_over');
    END IF;
END
$do$;
-- +goose StatementEnd

-- A worker that has slept since before a `down` believes its bell to be armed.
NOTIFY tokenalert;

-- +goose Down
SET LOCAL lock_timeout = '60ms';
LOCK TABLE ai_usage_logs IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE token_limit_alerts IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER IF EXISTS tokenalert_ring ON ai_usage_logs;
DROP TRIGGER IF EXISTS tokenalert_usage_changed ON ai_usage_logs;
DROP TRIGGER IF EXISTS tokenalert_usage_deleted ON ai_usage_logs;
DROP TRIGGER IF EXISTS tokenalert_usage_truncated ON ai_usage_logs;
DROP TRIGGER IF EXISTS tokenalert_user_added ON users;
DROP TRIGGER IF EXISTS tokenalert_user_deleted ON users;
DROP TRIGGER IF EXISTS tokenalert_user_moved ON users;
DROP TRIGGER IF EXISTS tokenalert_limit_changed ON users;
DROP TRIGGER IF EXISTS tokenalert_reset_day_changed ON users;
DROP TRIGGER IF EXISTS tokenalert_limits_changed ON tokenalert.user_limits;

-- Our history, kept where the next `up` finds it.
CREATE SCHEMA IF NOT EXISTS tokenalert_archive; -- 00007 has been here
-- +goose StatementBegin
DO $do$
DECLARE
    kept record;
BEGIN
    -- What an up that came no further than here had put there for those after it.
    FOR kept IN SELECT * FROM (VALUES ('archived_policies', 'policies'), ('archived_policy_changes', 'policy_changes'),
                                      ('granted_readers', 'granted_readers')) AS k (name, archived)
                UNION ALL SELECT relname, relname FROM pg_class WHERE relnamespace = 'tokenalert'::regnamespace
                    AND relkind = 'r' AND relname LIKE 'archived\_budget%' LOOP
        IF to_regclass('tokenalert.' || kept.name) IS NOT NULL THEN
            EXECUTE format('ALTER TABLE tokenalert.%I SET SCHEMA tokenalert_archive', kept.name);
            IF kept.name <> kept.archived THEN
                EXECUTE format('ALTER TABLE tokenalert_archive.%I RENAME TO %I', kept.name, kept.archived);
            END IF;
        END IF;
    END LOOP;
END
$do$;
-- +goose StatementEnd
CREATE TABLE tokenalert_archive.token_limit_alerts AS SELECT * FROM token_limit_alerts;
CREATE TABLE tokenalert_archive.usage_periods AS SELECT * FROM tokenalert.usage_periods;
CREATE TABLE tokenalert_archive.settings AS SELECT * FROM tokenalert.settings;
CREATE TABLE tokenalert_archive.user_limits AS SELECT * FROM tokenalert.user_limits;
CREATE TABLE tokenalert_archive.granted_roles AS SELECT * FROM tokenalert.granted_roles;
-- +goose StatementBegin
DO $do$
BEGIN
    -- What is on its way: the next `up` sends it on. An older schema has none.
    IF to_regclass('tokenalert.river_job') IS NOT NULL THEN
        CREATE TABLE tokenalert_archive.deliveries AS SELECT args, kind, max_attempts, queue, created_at FROM tokenalert.river_job
        WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled');
        -- An up may come before the rest of this down.
        DELETE FROM tokenalert.river_job WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled');
    END IF;
END
$do$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $do$
DECLARE
    t tokenalert.takeover;
    host text;
    c record;
BEGIN
    SELECT n.nspname INTO host FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE r.oid = to_regclass('ai_usage_logs');
    SELECT * INTO t FROM tokenalert.takeover;

    -- What roles have got from us, and no more.
    FOR c IN
        SELECT g.role, p.privilege FROM tokenalert.granted_roles g, tokenalert.host_privileges(g.role) AS p (privilege)
        WHERE p.privilege = ANY (g.host_privileges)
    LOOP
        EXECUTE format('REVOKE %s FROM %I', c.privilege, c.role);
    END LOOP;

    IF t.created_alerts THEN
        DROP TABLE token_limit_alerts;
    ELSE
        -- The newest row of each user and threshold, told before untold, in the host's own form.
        DELETE FROM token_limit_alerts a USING (
            SELECT id, row_number() OVER (PARTITION BY user_id, alert_threshold
                ORDER BY alert_sent DESC NULLS LAST, coalesce(sent_at, created_at) DESC NULLS LAST, id) AS age
            FROM token_limit_alerts) n
        WHERE n.id = a.id AND n.age > 1;
        ALTER TABLE token_limit_alerts
            DROP CONSTRAINT token_limit_alerts_told_once,
            DROP CONSTRAINT token_limit_alerts_user_fkey,
            DROP CONSTRAINT token_limit_alerts_organization_fkey,
            DROP COLUMN period_start, DROP COLUMN period_end, DROP COLUMN token_limit, DROP COLUMN tokens_used,
            DROP COLUMN percent_used, DROP COLUMN reason, DROP COLUMN notification_id, DROP COLUMN tick_id;
        FOR c IN SELECT key, value FROM jsonb_each_text(t.host_constraints) LOOP
            EXECUTE format('ALTER TABLE token_limit_alerts ADD CONSTRAINT %I %s', c.key, c.value);
        END LOOP;
    END IF;

    IF t.created_notifications THEN
        -- People may have read these; they are kept with our history.
        ALTER TABLE notifications SET SCHEMA tokenalert_archive;
    END IF;

    IF t.host_trigger IS NOT NULL AND EXISTS (SELECT FROM pg_trigger
            WHERE tgrelid = to_regclass('ai_usage_logs') AND tgname = 'token_limit_check') THEN
        EXECUTE 'ALTER TABLE ai_usage_logs ' || CASE t.host_trigger
            WHEN 'D' THEN 'DISABLE TRIGGER' WHEN 'A' THEN 'ENABLE ALWAYS TRIGGER'
            WHEN 'R' THEN 'ENABLE REPLICA TRIGGER' ELSE 'ENABLE TRIGGER' END || ' token_limit_check';
    END IF;
    DELETE FROM tokenalert.takeover;
END
$do$;
-- +goose StatementEnd
