-- +goose Up
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
