-- Time: the clock, and the period that an instant belongs to.
--
-- A period begins at the first instant at which a clock in its zone reads at
-- least 00:00 of the reset day. So where that midnight is skipped, it begins
-- right after the gap, and where it comes twice, at the earlier one.
--
-- For whoever changes this:
-- * plpgsql keeps intermediate results and takes 2 microseconds; a SQL function
--   with the same content cannot be inlined and takes 12 (300,000 calls).
-- * There is no SET search_path, which would add a third. Instead every operand
--   has exactly the type that the operator in pg_catalog declares, so that no
--   operator of another schema fits better (manual, 10.2).
-- * A day or month is only ever added to a timestamp without time zone. Added
--   to a timestamptz it would be one of the session's zone (manual, 9.9).

-- +goose Up

-- now: the only clock there is. Tests put another in its place (CREATE OR
-- REPLACE), so that a period ends when they say.
CREATE FUNCTION tokenalert.now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_catalog.now();

-- reset_date: 00:00 of the reset day in the month that begins at "month". NULL
-- and less than 1 mean the first, days that the month does not have its last.
CREATE FUNCTION tokenalert.reset_date(reset_day integer, month timestamp) RETURNS timestamp
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN LEAST(month + make_interval(days => LEAST(GREATEST(COALESCE(reset_day, 1), 1), 31) - 1),
                 month + interval '1 month -1 day');

-- local_midnight: the first instant at which a clock in the zone reads at least
-- "day", which is a midnight. PostgreSQL reads a time that is skipped with the
-- offset before the gap, and takes the later of a time that comes twice
-- (manual, B.2).
-- +goose StatementBegin
CREATE FUNCTION tokenalert.local_midnight(day timestamp, time_zone text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL SAFE STRICT
AS $$
DECLARE
    midnight timestamptz := day AT TIME ZONE time_zone;
    -- No clock was ever set by more than 24 hours, so this is the offset
    -- before whatever happened to this midnight.
    hours_before timestamp := (midnight - interval '25 hours') AT TIME ZONE time_zone;
    set_back interval;
BEGIN
    IF hours_before > day - interval '25 hours' THEN
        set_back := hours_before - (day - interval '25 hours');
        IF (midnight - set_back) AT TIME ZONE time_zone = day THEN
            RETURN midnight - set_back;
        END IF;
    ELSIF midnight AT TIME ZONE time_zone > day THEN
        -- Skipped. Changes since 2000 fall on whole minutes, and nearly every
        -- gap over a midnight begins with it: then there is no way to go.
        WHILE (midnight - interval '1 minute') AT TIME ZONE time_zone >= day LOOP
            midnight := midnight - interval '1 minute';
        END LOOP;
    END IF;
    RETURN midnight;
END
$$;
-- +goose StatementEnd

-- period_start: when the period that "at" is in began: period_start <= at.
-- NULL where "at" or the zone is NULL, "at" itself where that is infinite. Made
-- for the years 2000 to 2100; at the very ends of timestamptz the arithmetic
-- fails with 22008.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.period_start(reset_day integer, time_zone text, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    local timestamp := at AT TIME ZONE time_zone;
    month timestamp := date_trunc('month', local) + interval '1 month';
    day timestamp;
    midnight timestamptz;
BEGIN
    -- From the month after the local one: a clock set back over its first
    -- midnight shows the old month once more, in the new period. From a day
    -- more than 25 hours ahead no clock was ever set back.
    FOR i IN 1..3 LOOP
        day := tokenalert.reset_date(reset_day, month);
        IF day <= local + interval '25 hours' THEN
            midnight := tokenalert.local_midnight(day, time_zone);
            IF midnight <= at THEN
                RETURN midnight;
            END IF;
        END IF;
        month := month - interval '1 month';
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- period_end: when the next period begins, which is the first instant that is
-- no longer in this one: at < period_end. NULL where "at" is infinite,
-- otherwise as period_start.
-- +goose StatementBegin
CREATE FUNCTION tokenalert.period_end(reset_day integer, time_zone text, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    local timestamp := at AT TIME ZONE time_zone;
    month timestamp := date_trunc('month', local);
    day timestamp;
    midnight timestamptz;
BEGIN
    -- A day that the clock shows has begun; one that it does not show may have,
    -- before the clock was set back.
    FOR i IN 1..3 LOOP
        day := tokenalert.reset_date(reset_day, month);
        IF day > local THEN
            midnight := tokenalert.local_midnight(day, time_zone);
            IF midnight > at THEN
                RETURN midnight;
            END IF;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION tokenalert.period_end(integer, text, timestamptz);
DROP FUNCTION tokenalert.period_start(integer, text, timestamptz);
DROP FUNCTION tokenalert.local_midnight(timestamp, text);
DROP FUNCTION tokenalert.reset_date(integer, timestamp);
DROP FUNCTION tokenalert.now();
