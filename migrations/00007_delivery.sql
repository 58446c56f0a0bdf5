-- +goose Up
-- Policies: where an organization, or a user, is told otherwise than the settings
-- say. A column that is NULL says nothing, so a user's counts before that of their
-- organization, and that before the settings.

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
    language        text        CONSTRAINT policies_language_check CHECK (language IN ('es', 'en', 'pt')),
    channels        text[]      CONSTRAINT policies_channels_check CHECK (channels <@ '{notification,email,webhook}'::text[]),
    muted_until     timestamptz,
    added           integer[]   NOT NULL,
    version         bigint      NOT NULL,
    changed_at      timestamptz NOT NULL,
    CONSTRAINT policies_of_one_check CHECK (num_nonnulls(organization_id, user_id) = 1)
);
CREATE INDEX policies_lowest_idx ON tokenalert.policies ((thresholds[1])) WHERE thresholds IS NOT NULL;
CREATE INDEX policies_version_idx ON tokenalert.policies (version);
COMMENT ON TABLE tokenalert.policies IS 'Who is told otherwise than the settings say; by `tokenalert policy`. What is NULL says nothing';
COMMENT ON COLUMN tokenalert.policies.thresholds IS 'Percent of the limit, ascending';
COMMENT ON COLUMN tokenalert.policies.language IS 'Of an organization: for users who have none';
COMMENT ON COLUMN tokenalert.policies.channels IS 'By which alerts are delivered besides the notification, of those that are set up';
COMMENT ON COLUMN tokenalert.policies.muted_until IS 'Until then crossings are recorded, and nobody is told';
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
    PERFORM pg_advisory_xact_lock(8389759082999869550); -- "tokenaln"
    IF NEW.user_id IS NOT NULL THEN
        otherwise := coalesce((SELECT p.thresholds FROM tokenalert.policies p, tokenalert.accounts() a
                               WHERE a.user_id = NEW.user_id AND p.organization_id = a.organization_id), settings);
    END IF;
    had := otherwise;
    NEW.added := '{}';
    IF TG_OP = 'UPDATE' THEN
        had := coalesce(OLD.thresholds, otherwise);
        IF EXISTS (SELECT FROM tokenalert.recounts r WHERE r.cause = 'policy_changed') THEN
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
    INSERT INTO tokenalert.recounts (user_id, cause)
    SELECT a.user_id, 'policy_changed' FROM tokenalert.accounts() a
    WHERE a.token_limit > 0 AND (a.user_id = NEW.user_id OR a.organization_id = NEW.organization_id);
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
    IF to_regclass('tokenalert.archived_policies') IS NOT NULL THEN
        ALTER TABLE tokenalert.policies DISABLE TRIGGER USER;
        INSERT INTO tokenalert.policies SELECT * FROM tokenalert.archived_policies;
        ALTER TABLE tokenalert.policies ENABLE TRIGGER USER;
        INSERT INTO tokenalert.policy_changes SELECT * FROM tokenalert.archived_policy_changes;
        PERFORM setval('tokenalert.policy_version', greatest((SELECT max(version) FROM tokenalert.policy_changes), 1));
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
-- to, and by which server. So the worker's role reads no address but of who is
-- told, when they are told, and no password of a mail server at all times.
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
    EXECUTE format($sql$
        CREATE FUNCTION tokenalert.recipient(alert uuid)
        RETURNS TABLE (email text, organization_name text, server jsonb, template jsonb)
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $body$
        DECLARE
            recipient_id uuid;
            organization uuid;
        BEGIN
            SELECT a.user_id, a.organization_id INTO recipient_id, organization
            FROM %1$s a
            WHERE a.id = alert AND EXISTS (SELECT FROM tokenalert.river_job j
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
            UPDATE %s SET alert_type = 'both' WHERE id = alert AND alert_sent AND alert_type = 'notification'
        $body$ $sql$,
        (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('token_limit_alerts')));
END
$do$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION tokenalert.recipient(uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.emailed(uuid) FROM PUBLIC;

-- +goose Down
DROP FUNCTION tokenalert.emailed(uuid);
DROP FUNCTION tokenalert.recipient(uuid);

CREATE SCHEMA IF NOT EXISTS tokenalert_archive;
CREATE TABLE tokenalert_archive.policies AS SELECT * FROM tokenalert.policies;
CREATE TABLE tokenalert_archive.policy_changes AS SELECT * FROM tokenalert.policy_changes;
ALTER TABLE tokenalert.usage_periods DROP COLUMN policy_seen;
DROP TABLE tokenalert.policies, tokenalert.policy_changes;
DROP FUNCTION tokenalert.policy_changes_begin(), tokenalert.policy_changes_end(), tokenalert.are_thresholds(integer[]);
DROP SEQUENCE tokenalert.policy_version;
