-- Every row leaves a job, in the transaction of the insert: an insert into
-- River's table and a notification, as https://riverqueue.com/docs/sql has them.
-- That page warns of thousands of notifications a second, and River's client
-- notifies at most once in its fetch cooldown, by default 100 ms: so does each
-- session here. What is not notified is polled.
CREATE FUNCTION insert_river_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO river_job (args, kind, max_attempts)
    VALUES (jsonb_build_object('user_id', NEW.user_id, 'tokens', NEW.tokens_used, 'created_at', NEW.created_at), 'usage', 25);
    IF clock_timestamp() > coalesce(nullif(current_setting('river.notified', true), ''), '-infinity')::timestamptz + interval '100 ms' THEN
        PERFORM pg_notify(current_schema() || '.river_insert', '{"queue":"default"}'),
                set_config('river.notified', clock_timestamp()::text, false);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER insert_river_job AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION insert_river_job();
