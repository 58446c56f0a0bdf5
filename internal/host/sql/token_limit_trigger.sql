-- The host's own alerts, with all that is wrong with them: each defect is one
-- that tokenalert must not have, so none may be mended here.
CREATE TABLE token_limit_alerts (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- No cascade: whoever was alerted once cannot be deleted.
    user_id         uuid NOT NULL REFERENCES users (id),
    organization_id uuid NOT NULL REFERENCES organizations (id),
    alert_threshold integer NOT NULL DEFAULT 80,
    alert_sent      boolean DEFAULT false,
    alert_type      varchar(50) NOT NULL DEFAULT 'email' CHECK (alert_type IN ('email', 'notification', 'both')),
    created_at      timestamptz DEFAULT now(),
    sent_at         timestamptz,
    -- No period: this month's alert overwrites last month's.
    UNIQUE (user_id, alert_threshold)
);

CREATE INDEX idx_token_alerts_user ON token_limit_alerts (user_id);
CREATE INDEX idx_token_alerts_org ON token_limit_alerts (organization_id);

CREATE FUNCTION send_token_limit_notification(
    p_user_id uuid, p_organization_id uuid, p_threshold integer, p_limit integer, p_used bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_name    text;
    v_title   text;
    v_message text;
BEGIN
    SELECT full_name INTO v_name FROM users WHERE id = p_user_id;

    -- The percentage in the text is the threshold, not the usage.
    v_message := format('Hola %s: has utilizado %s de %s tokens de IA (%s%%) en este ciclo.',
                        v_name, p_used, p_limit, p_threshold);
    IF p_threshold >= 100 THEN
        v_title := '⚠️ Límite de Tokens IA Excedido';
        -- The opposite of what is meant.
        v_message := v_message || ' El servicio de IA estará disponible hasta el próximo ciclo.';
    ELSIF p_threshold >= 90 THEN
        v_title := '⚡ 90% de Tokens IA Utilizados';
    ELSE
        v_title := '📊 80% de Tokens IA Utilizados';
    END IF;

    -- The CMS has no such table: there this fails, and so does the insert.
    INSERT INTO notifications (organization_id, user_id, title, message, notification_type, link_url)
    VALUES (p_organization_id, p_user_id, v_title, v_message, 'token_limit_alert', '/admin/token-usage');
END
$$;

CREATE FUNCTION check_token_limit_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_limit     integer;
    v_reset     integer;
    v_start     timestamptz;
    v_used      bigint;
    v_percent   integer;
    v_threshold integer;
BEGIN
    SELECT monthly_token_limit, coalesce(token_limit_reset_day, 1)
    INTO v_limit, v_reset
    FROM users WHERE id = NEW.user_id;

    IF v_limit IS NULL OR v_limit = 0 THEN
        RETURN NEW;
    END IF;

    -- Adds where it must subtract, forgets to come back to the reset day, and
    -- asks the session for the time zone.
    v_start := date_trunc('month', now() + (v_reset - 1) * interval '1 day');

    -- The whole month, for each row; what is not committed yet is missed.
    SELECT coalesce(sum(tokens_used), 0) INTO v_used
    FROM ai_usage_logs WHERE user_id = NEW.user_id AND created_at >= v_start;

    -- 79.5 % is told as 80 %.
    v_percent := round(v_used * 100.0 / v_limit);

    -- A jump over several thresholds records the highest alone.
    IF v_percent >= 100 THEN
        v_threshold := 100;
    ELSIF v_percent >= 90 THEN
        v_threshold := 90;
    ELSIF v_percent >= 80 THEN
        v_threshold := 80;
    ELSE
        RETURN NEW;
    END IF;

    IF EXISTS (SELECT FROM token_limit_alerts
               WHERE user_id = NEW.user_id AND alert_threshold = v_threshold
                 AND alert_sent AND sent_at >= v_start) THEN
        RETURN NEW;
    END IF;

    PERFORM send_token_limit_notification(NEW.user_id, NEW.organization_id, v_threshold, v_limit, v_used);

    INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, sent_at)
    VALUES (NEW.user_id, NEW.organization_id, v_threshold, true, 'notification', now())
    ON CONFLICT (user_id, alert_threshold) DO UPDATE
        SET alert_sent = true, alert_type = excluded.alert_type, sent_at = excluded.sent_at;
    RETURN NEW;
END
$$;

CREATE TRIGGER token_limit_check
    AFTER INSERT ON ai_usage_logs
    FOR EACH ROW EXECUTE FUNCTION check_token_limit_trigger();
