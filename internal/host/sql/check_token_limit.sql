-- Asked before an AI call: would this many more tokens still be within the
-- user's limit? It sums the month each time, and has the trigger's wrong start
-- of the period.
CREATE FUNCTION check_token_limit(p_user_id uuid, p_additional integer DEFAULT 0)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_limit integer;
    v_reset integer;
    v_start timestamptz;
    v_used  bigint;
BEGIN
    SELECT monthly_token_limit, coalesce(token_limit_reset_day, 1)
    INTO v_limit, v_reset
    FROM users WHERE id = p_user_id;

    IF v_limit IS NULL OR v_limit = 0 THEN
        RETURN true;
    END IF;

    v_start := date_trunc('month', now() + (v_reset - 1) * interval '1 day');
    SELECT coalesce(sum(tokens_used), 0) INTO v_used
    FROM ai_usage_logs WHERE user_id = p_user_id AND created_at >= v_start;

    RETURN v_used + p_additional <= v_limit;
END
$$;
