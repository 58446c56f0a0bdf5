-- What all write who tell by our SQL: a row for each user, period, threshold and
-- limit, which is unique, and a notification with it.
CREATE TABLE token_limit_alerts (
    user_id         uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
    period_start    timestamptz NOT NULL,
    alert_threshold integer NOT NULL,
    token_limit     bigint NOT NULL,
    tokens_used     numeric NOT NULL,
    alert_sent      boolean NOT NULL DEFAULT true,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, period_start, alert_threshold, token_limit)
);
