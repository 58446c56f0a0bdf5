-- Every row is an event: whose, how many tokens, when.
CREATE FUNCTION queue_usage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgq.insert_event('usage', NEW.user_id::text, NEW.tokens_used::text, NEW.created_at::text, NULL, NULL, NULL);
    RETURN NULL;
END
$$;
CREATE TRIGGER queue_usage AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION queue_usage();
