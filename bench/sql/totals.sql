-- The totals of the months, to begin with of what is there.
CREATE TABLE usage_totals (
    user_id      uuid NOT NULL,
    period_start timestamptz NOT NULL,
    tokens_used  bigint NOT NULL,
    PRIMARY KEY (user_id, period_start)
) WITH (fillfactor = 70); -- so that updates stay HOT
INSERT INTO usage_totals
SELECT user_id, date_trunc('month', created_at, 'UTC'), sum(tokens_used) FROM ai_usage_logs GROUP BY 1, 2;
