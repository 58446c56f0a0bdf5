-- Every row leaves a job, in the transaction of the insert, as
-- https://worker.graphile.org/docs/sql-add-job has it.
CREATE FUNCTION add_usage_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM graphile_worker.add_job('count_usage', json_build_array(json_build_object(
        'id', NEW.id, 'user_id', NEW.user_id, 'tokens', NEW.tokens_used, 'created_at', NEW.created_at)));
    RETURN NULL;
END
$$;
CREATE TRIGGER add_usage_job AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION add_usage_job();

-- What jobs have counted: a job may run again whose worker died.
CREATE TABLE usage_counted (id uuid PRIMARY KEY);
