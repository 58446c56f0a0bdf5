-- Every row leaves another for the worker, in the transaction of the insert.
CREATE TABLE usage_outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    uuid NOT NULL,
    tokens     integer NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE FUNCTION fill_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_outbox (user_id, tokens, created_at) VALUES (NEW.user_id, NEW.tokens_used, NEW.created_at);
    RETURN NULL;
END
$$;
CREATE TRIGGER fill_outbox AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION fill_outbox();
