-- +goose Up
-- The functions behind our triggers. The host's statement always wins: each
-- turns its own errors into a warning, waits for nobody, and has its
-- search_path pinned. None can be called by anyone but a trigger.

-- ring wakes the worker. It is called only while the bell is armed or the lease
-- of a worker that died has not been taken away, and then does nothing. It stays
-- mute when the notification queue is half full (a full queue fails the commit
-- of whoever notifies) and where transactions can be prepared (PREPARE
-- TRANSACTION is refused after NOTIFY), unless the settings force it.
-- https://www.postgresql.org/docs/current/sql-notify.html
-- +goose StatementBegin
CREATE FUNCTION tokenalert.ring() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF pg_sequence_last_value('tokenalert.doorbell') > date_part('epoch', clock_timestamp())
       AND pg_notification_queue_usage() < 0.5 THEN
        IF current_setting('max_prepared_transactions') <> '0' THEN -- apart, as a query locks what it reads when it is planned
            IF (SELECT s.bell_forced FROM tokenalert.settings s) IS NOT TRUE THEN
                RETURN NULL;
            END IF;
        END IF;
        PERFORM pg_notify('tokenalert', '');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'tokenalert: the bell stays silent (%): %', SQLSTATE, SQLERRM;
    RETURN NULL;
END
$body$;
-- +goose StatementEnd

-- record_correction appends to recounts and rings, for every trigger below:
-- TG_ARGV[0] is the cause.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.record_correction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    CASE TG_ARGV[0]
    WHEN 'usage_changed' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause)
        SELECT DISTINCT c.user_id, c.at, TG_ARGV[0]
        FROM (VALUES (OLD.user_id, OLD.created_at), (NEW.user_id, NEW.created_at)) AS c (user_id, at)
        WHERE c.user_id IS NOT NULL AND c.at IS NOT NULL;
    WHEN 'usage_deleted' THEN
        INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES (OLD.user_id, OLD.created_at, TG_ARGV[0]);
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

-- lock_users takes the users about to be told, and their organizations, as the
-- foreign keys of token_limit_alerts will, all at once and without waiting for
-- anybody; it returns those it obtained. SECURITY DEFINER, because row locks
-- need UPDATE, which the runtime role does not have.
-- https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS
-- +goose StatementBegin
DO $do$
DECLARE
    users text;
    organizations text;
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname) INTO users
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('users');
    SELECT format('%I.%I', n.nspname, c.relname) INTO organizations
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('organizations');
    EXECUTE format($sql$
        CREATE FUNCTION tokenalert.lock_users(ids uuid[]) RETURNS SETOF uuid
        LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $body$
            SELECT u.id FROM %s u JOIN %s o ON o.id = u.organization_id
            WHERE u.id = ANY (ids) FOR KEY SHARE OF u, o SKIP LOCKED
        $body$ $sql$, users, organizations);
END
$do$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION tokenalert.ring() FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.record_correction() FROM PUBLIC;
REVOKE ALL ON FUNCTION tokenalert.lock_users(uuid[]) FROM PUBLIC;

-- +goose Down
DROP FUNCTION tokenalert.lock_users(uuid[]);
DROP FUNCTION tokenalert.record_correction();
DROP FUNCTION tokenalert.ring();
