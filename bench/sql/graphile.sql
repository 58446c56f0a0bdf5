-- Every row joins the job of its user that waits, or leaves one, in the
-- transaction of the insert: https://worker.graphile.org/docs/sql-add-job and
-- https://worker.graphile.org/docs/job-key, "Array payload merging".
CREATE FUNCTION add_usage_job() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    job bigint;
BEGIN
    FOR attempt IN 1..100 LOOP
        SELECT id INTO job FROM graphile_worker.add_job('count_usage', json_build_array(json_build_object(
            'id', NEW.id, 'user_id', NEW.user_id, 'tokens', NEW.tokens_used, 'created_at', NEW.created_at)),
            job_key := 'count_usage:' || NEW.user_id);
        -- Null where another added at the same time, and this did not: "job_key
        -- caveats" on that page.
        IF job IS NOT NULL THEN
            RETURN NULL;
        END IF;
    END LOOP;
    RAISE 'no job was added for %', NEW.user_id;
END
$$;
CREATE TRIGGER add_usage_job AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION add_usage_job();

-- What jobs have counted: a job may run again.
CREATE TABLE usage_counted (id uuid PRIMARY KEY);
