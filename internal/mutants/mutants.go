package main

// testPackage holds the tests that are named after the design.
const testPackage = "./worker"

// A mutant is one behaviour of the host's own trigger, put back.
type mutant struct {
	name      string
	test      string // must fail
	behaviour string
	edits     []edit
}

// An edit replaces what must occur in a file exactly once.
type edit struct{ file, old, new string }

var mutants = []mutant{
	{
		"sum-in-tick", "TestDesignCostDoesNotDependOnHistory",
		"each tick sums the whole month",
		[]edit{{
			"store/window.go",
			`SET tokens_used = p.tokens_used + d.amount, period_end`,
			`SET tokens_used = (SELECT sum(u.tokens_used) FROM ai_usage_logs u
				WHERE u.user_id = p.user_id AND u.created_at >= p.period_start AND u.created_at < p.period_end), period_end`,
		}},
	},
	{
		"sum-in-trigger", "TestDesignCostDoesNotDependOnHistory",
		"each insert sums the whole month",
		[]edit{{
			"migrations/00006_takeover.sql",
			`    IF host_trigger IS NOT NULL THEN
        ALTER TABLE ai_usage_logs DISABLE TRIGGER token_limit_check;
    END IF;
`,
			`    CREATE FUNCTION tokenalert.sum_month() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $sum$
    BEGIN
        PERFORM sum(tokens_used) FROM ai_usage_logs WHERE user_id = NEW.user_id AND created_at >= date_trunc('month', now());
        RETURN NULL;
    END
    $sum$;
    CREATE TRIGGER sum_month AFTER INSERT ON ai_usage_logs FOR EACH ROW
        WHEN (NEW.xact_id IS NOT NULL) EXECUTE FUNCTION tokenalert.sum_month();
`,
		}},
	},
	{
		"concurrent-missed", "TestDesignConcurrentInsertsAreCountedOnce",
		"what was not committed yet is missed for ever",
		[]edit{
			{"store/window.go", `WHERE xact_id = ended.xid OFFSET 0`, `WHERE xact_id = ended.xid AND false OFFSET 0`},
			{"store/poll.go", `BETWEEN ended.xid AND ended.xid ORDER BY`, `BETWEEN ended.xid AND ended.xid AND false ORDER BY`},
		},
	},
	{
		"concurrent-doubled", "TestDesignConcurrentInsertsAreCountedOnce",
		"what committed beside an open transaction is counted twice",
		[]edit{{
			"store/window.go",
			`WHERE xact_id >= r.lo AND xact_id < least(r.hi, target.end_id) OFFSET 0`,
			`WHERE xact_id >= (SELECT pg_snapshot_xmin(last.snapshot) FROM last) AND xact_id < least(r.hi, target.end_id) OFFSET 0`,
		}},
	},
	{
		"ring-raises", "TestDesignTriggerErrorsDoNotAbortInserts",
		"an error in the trigger on inserts aborts the host's statement",
		[]edit{{
			"migrations/00005_hooks.sql",
			`    RAISE WARNING 'tokenalert: the bell stays silent (%): %', SQLSTATE, SQLERRM;`,
			`    RAISE;`,
		}},
	},
	{
		"correction-raises", "TestDesignTriggerErrorsDoNotAbortInserts",
		"an error in the triggers on corrections aborts the host's statement",
		[]edit{{
			"migrations/00008_budgets.sql",
			`    RAISE WARNING 'tokenalert: correction not recorded, reconcile will find it (%): %', SQLSTATE, SQLERRM;`,
			`    RAISE;`,
		}},
	},
	{
		"history-overwritten", "TestDesignHistoryIsKept",
		"one row for each user and threshold, which the next month overwrites",
		[]edit{
			{
				"migrations/00006_takeover.sql",
				`UNIQUE (user_id, period_start, alert_threshold, token_limit)`, `UNIQUE (user_id, alert_threshold)`,
			},
			{"store/privilege.go", `may("table", host.alerts, "SELECT", "INSERT")`, `may("table", host.alerts, "SELECT", "INSERT", "UPDATE")`},
			{
				"store/alerts.go",
				`ON CONFLICT (user_id, period_start, alert_threshold, token_limit) DO NOTHING
	RETURNING id`,
				`ON CONFLICT (user_id, alert_threshold) DO UPDATE SET id = EXCLUDED.id, alert_sent = EXCLUDED.alert_sent,
		sent_at = EXCLUDED.sent_at, period_start = EXCLUDED.period_start, reason = EXCLUDED.reason
	RETURNING id`,
			},
		},
	},
	{
		"period-adds", "TestDesignPeriodStartsOnTheRightDay",
		"the period starts on the wrong day, as many days before the month as it must be after",
		[]edit{{
			"migrations/00003_periods.sql",
			`RETURN LEAST(month + make_interval(`, `RETURN LEAST(month - make_interval(`,
		}},
	},
	{
		"rounded", "TestDesignRoundingDoesNotAlertEarly",
		"the percentage is rounded before it is compared",
		[]edit{{
			"worker/decide.go",
			`used >= 0 && compare(used, 100, limit, int64(threshold)) >= 0`,
			`used >= 0 && (used*100+limit/2)/limit >= int64(threshold)`,
		}},
	},
	{
		"threshold-as-percentage", "TestDesignMessageSaysTheTruePercentage",
		"the message gives the threshold as if it were the usage",
		[]edit{{"worker/wording.go", `tenths := PercentTenths(n.TokensUsed, n.TokenLimit)`, `tenths := int64(n.Threshold) * 10`}},
	},
	{
		"says-available", "TestDesignMessageSaysNotAvailable",
		"the text at 100 % says that AI will be available",
		[]edit{{"worker/words/es.reached.message", `La IA no estará disponible`, `La IA estará disponible`}},
	},
	{
		"jump-records-highest", "TestDesignJumpRecordsEveryThreshold",
		"a jump over several thresholds records the highest alone",
		[]edit{{"worker/decide.go", `slices.Backward(crossed)`, `slices.Backward(crossed[max(len(crossed)-1, 0):])`}},
	},
	{
		"limit-unnoticed", "TestDesignLoweredLimitIsNoticedAtOnce",
		"a lowered limit is not noticed until the next insert",
		[]edit{{
			"migrations/00006_takeover.sql",
			`WHEN (OLD.monthly_token_limit IS DISTINCT FROM NEW.monthly_token_limit)`, `WHEN (false)`,
		}},
	},
	{
		"session-zone", "TestDesignMonthFollowsOneZone",
		"months follow the session's time zone",
		[]edit{{
			"migrations/00003_periods.sql",
			`midnight timestamptz := day AT TIME ZONE time_zone;`, `midnight timestamptz := day::timestamptz;`,
		}},
	},
	{
		"blocks-deletion", "TestDesignDeletingAUserCascades",
		"alerts keep a user from being deleted",
		[]edit{{"migrations/00006_takeover.sql", `REFERENCES users (id) ON DELETE CASCADE`, `REFERENCES users (id)`}},
	},
}
