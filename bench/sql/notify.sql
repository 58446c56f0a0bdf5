-- Every row rings, with the user's id. The worker sums the month.
CREATE FUNCTION notify_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('usage', NEW.user_id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_usage AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION notify_usage();

-- The newest question of ours, "is everything done?", that the worker answered.
CREATE TABLE notify_answer (question bigint NOT NULL);
INSERT INTO notify_answer VALUES (0);
