-- What both databases have around ai_usage_logs. With the primary key these
-- are the seven indexes that every insert maintains.
CREATE INDEX idx_ai_usage_user ON ai_usage_logs (user_id);
CREATE INDEX idx_ai_usage_org ON ai_usage_logs (organization_id);
CREATE INDEX idx_ai_usage_created ON ai_usage_logs (created_at);
CREATE INDEX idx_ai_usage_endpoint ON ai_usage_logs (endpoint);
CREATE INDEX idx_ai_usage_type ON ai_usage_logs (request_type);
CREATE INDEX idx_ai_usage_user_created ON ai_usage_logs (user_id, created_at);

-- The older overload. Beside the newer one's defaults it makes every call with
-- nine arguments ambiguous, so the host names all eleven.
CREATE FUNCTION log_ai_usage(
    p_user_id uuid, p_organization_id uuid,
    p_tokens integer, p_input integer, p_output integer,
    p_endpoint varchar, p_model varchar, p_request_type varchar, p_metadata jsonb
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid := gen_random_uuid();
BEGIN
    INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens,
                               endpoint, model, request_type, request_metadata)
    VALUES (v_id, p_user_id, p_organization_id, p_tokens, p_input, p_output,
            p_endpoint, p_model, p_request_type, p_metadata);
    RETURN v_id;
END
$$;

CREATE FUNCTION log_ai_usage(
    p_user_id uuid, p_organization_id uuid,
    p_tokens integer, p_input integer, p_output integer,
    p_endpoint varchar, p_model varchar, p_request_type varchar, p_metadata jsonb,
    p_prompt text DEFAULT NULL, p_response text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid := gen_random_uuid();
BEGIN
    INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens,
                               endpoint, model, request_type, request_metadata,
                               estimated_cost_usd, prompt, response)
    VALUES (v_id, p_user_id, p_organization_id, p_tokens, p_input, p_output,
            p_endpoint, p_model, p_request_type, p_metadata,
            (p_input * 0.15 + p_output * 0.60) / 1000000, p_prompt, p_response);
    RETURN v_id;
END
$$;

CREATE VIEW ai_usage_daily AS
SELECT organization_id, user_id, created_at::date AS day, request_type,
       count(*)           AS requests,
       sum(tokens_used)   AS tokens_used,
       sum(input_tokens)  AS input_tokens,
       sum(output_tokens) AS output_tokens
FROM ai_usage_logs
GROUP BY organization_id, user_id, created_at::date, request_type;

CREATE VIEW ai_usage_monthly AS
SELECT organization_id, user_id, date_trunc('month', created_at) AS month,
       count(*)           AS requests,
       sum(tokens_used)   AS tokens_used,
       sum(input_tokens)  AS input_tokens,
       sum(output_tokens) AS output_tokens
FROM ai_usage_logs
GROUP BY organization_id, user_id, date_trunc('month', created_at);
