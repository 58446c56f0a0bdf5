-- +goose Up
-- Each usage row carries the id of the transaction that wrote it, so that a
-- tick can read the difference of two snapshots. The column is added without a
-- default, and the default set in a second step of the same transaction: in
-- one step every existing row would get this migration's own id. Existing rows
-- stay NULL, nothing is rewritten, and the first full count covers them.
SET LOCAL lock_timeout = '200ms';
ALTER TABLE ai_usage_logs ADD COLUMN xact_id xid8;
ALTER TABLE ai_usage_logs ALTER COLUMN xact_id SET DEFAULT pg_current_xact_id();
COMMENT ON COLUMN ai_usage_logs.xact_id IS 'Transaction that wrote the row; tokenalert counts by it. Leave it to its default.';

-- +goose Down
SET LOCAL lock_timeout = '200ms';
ALTER TABLE ai_usage_logs DROP COLUMN IF EXISTS xact_id;
