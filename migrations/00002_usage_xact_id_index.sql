-- +goose NO TRANSACTION

-- +goose Up
-- CONCURRENTLY waits for transactions that were open before it; it holds up no
-- writer meanwhile. A build that was interrupted leaves an invalid index,
-- which `migrate up` drops and builds again.
DROP INDEX CONCURRENTLY IF EXISTS ai_usage_logs_xact_id_idx;
CREATE INDEX CONCURRENTLY ai_usage_logs_xact_id_idx ON ai_usage_logs (xact_id) WHERE xact_id IS NOT NULL;
ANALYZE ai_usage_logs (xact_id);

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS ai_usage_logs_xact_id_idx;
