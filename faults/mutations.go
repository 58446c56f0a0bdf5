package main

import (
	"tokenalert/faults/plan"
	"tokenalert/internal/overlay"
)

// A mutation is something that must not be done, done.
type mutation struct {
	name  string
	what  string
	edits []overlay.Edit
	plays func(*plan.Plan) bool // only these schedules, where the others cannot show it; nil: all
}

// Without the fence two workers that both believe they lead both count. It is
// made of two things that each would do: the chain's key, and the one snapshot
// of a tick, against which PostgreSQL refuses to update what has changed since
// (manual 13.2.2).
var noFence = []overlay.Edit{
	{
		File: "migrations/00004_ledger.sql",
		Old:  "id                bigint      CONSTRAINT ticks_pkey PRIMARY KEY,", New: "id                bigint      NOT NULL,",
	},
	{File: "store/tick.go", Old: `batch.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ")`, New: `batch.Queue("BEGIN ISOLATION LEVEL READ COMMITTED")`},
}

var mutations = []mutation{
	{name: "fence-removed", what: "two workers may both extend the chain", edits: noFence},
	{name: "window-to-xmin", what: "the window ends at the snapshot's xmin, and the next begins at its xmax", edits: []overlay.Edit{{
		File: "store/window.go",
		Old:  "SELECT pg_snapshot_xmax(here.snapshot)::text::bigint FROM here", New: "SELECT pg_snapshot_xmin(here.snapshot)::text::bigint FROM here",
	}}},
	{name: "no-barrier", what: "the bell is armed without waiting for those who looked before", edits: []overlay.Edit{{
		File: "worker/loop.go", Old: "settled = settled || p.Xmin >= barrier;", New: "settled = settled || p.Xmin >= barrier || true;",
	}}},
	{name: "alerts-apart", what: "alerts are written in a transaction after the tick's", edits: []overlay.Edit{{
		File: "store/alerts.go", Old: "	for _, some := range inChunks(decisions) {",
		New: "	batch.Queue(\"COMMIT\")\n	batch.Queue(\"BEGIN\")\n	for _, some := range inChunks(decisions) {",
	}}},
	{name: "workers-clock", what: "what is the current period is decided by the worker's clock", edits: []overlay.Edit{{
		File: "store/tick.go", Old: "decide(q.Kind, result.Now, candidates)", New: "decide(q.Kind, time.Now(), candidates)",
	}}},
	{name: "recount-ahead", what: "a correction in a bounded tick is counted at the tick's own snapshot", edits: []overlay.Edit{{
		File: "store/window.go",
		Old:  "		  AND (u.xact_id IS NULL OR pg_visible_in_snapshot(u.xact_id, tick.snapshot))\n	) l\n	WHERE d.amount > 0",
		New:  "	) l\n	WHERE d.amount > 0",
	}}},
	{name: "no-look-at-the-file", what: "a table that was rewritten under the tick goes unnoticed", edits: []overlay.Edit{{
		File: "store/window.go", Old: "SELECT c.relfilenode = pg_relation_filenode(c.oid) AS same", New: "SELECT true AS same",
	}}},
	{name: "deaf-leader", what: "a leader goes on after a failed ping, and the fence is weak", edits: append([]overlay.Edit{{
		File: "worker/lead.go", Old: `			return fmt.Errorf("the lead's session does not answer: %w", err)`, New: "			_ = fmt.Errorf\n			continue",
	}}, noFence...)},
	{name: "budget-half-added", what: "the window adds to the shares of a budget and not to its total", edits: []overlay.Edit{{
		File: "store/budgets.go",
		Old:  "		SET tokens_used = p.tokens_used + EXCLUDED.tokens_used, period_end = EXCLUDED.period_end, tick_id = EXCLUDED.tick_id\n	RETURNING p.organization_id, p.period_start, p.period_end, p.tokens_used, p.marks\n)` + budgetBegins(`fence, shares`, unlessKnown)\n\n// setShares",
		New:  "		SET tick_id = EXCLUDED.tick_id\n	RETURNING p.organization_id, p.period_start, p.period_end, p.tokens_used, p.marks\n)` + budgetBegins(`fence, shares`, unlessKnown)\n\n// setShares",
	}}},
	{name: "budget-from-now-on", what: "a new budget is counted without what was used before it", edits: []overlay.Edit{{
		File: "store/budgets.go", Old: "WHERE organization_id = $1 AND created_at >= $2 AND created_at < '2100-01-01 00:00+00' AND user_id IS NOT NULL",
		New: "WHERE organization_id = $1 AND created_at >= $2 AND created_at < '2100-01-01 00:00+00' AND user_id IS NOT NULL AND false",
	}}},
	{name: "budget-told-early", what: "a budget is told of before all is counted, and the last correction is not awaited", edits: []overlay.Edit{
		{File: "store/budgets.go", Old: "(SELECT * FROM taken WHERE budget_version IS NOT NULL OFFSET 0) t", New: "taken t"},
		{File: "store/budgets.go", Old: "b.organization_id = t.organization_id AND b.version = t.budget_version", New: "b.organization_id = t.organization_id"},
	}},
	{name: "budget-begins-unseen", what: "a budget is not looked at when a period begins of which there was usage before", edits: []overlay.Edit{{
		File: "store/budgets.go", Old: "WHERE d.period_start > here.at OFFSET 0) d` + where", New: "WHERE d.period_start > here.at AND false OFFSET 0) d` + where",
	}}, plays: func(p *plan.Plan) bool { return p.Budgets() && p.Rollover > 0 }},
	{name: "correction-of-nobodys", what: "a correction forgets whose budget the row belonged to", edits: []overlay.Edit{{
		File: "migrations/00008_budgets.sql", Old: "SELECT DISTINCT c.user_id, c.organization_id, c.at, TG_ARGV[0]",
		New: "SELECT DISTINCT c.user_id, NULL::uuid, c.at, TG_ARGV[0]",
	}}},
	{name: "share-of-the-user", what: "a correction counts all that the user has used, in whichever organization", edits: []overlay.Edit{{
		File: "store/budgets.go", Old: "sum(u.tokens_used) FILTER (WHERE u.organization_id = d.organization_id)", New: "sum(u.tokens_used)",
	}}},
	{name: "budget-told-again", what: "of a budget that was told before the admins are told again", edits: []overlay.Edit{
		{
			File: "migrations/00008_budgets.sql", Old: "    CONSTRAINT budget_alerts_told_once UNIQUE (organization_id, period_start, alert_threshold, token_limit)\n",
			New: "    CHECK (true)\n",
		},
		{File: "migrations/00008_budgets.sql", Old: "        CONSTRAINT budget_alerts_pkey PRIMARY KEY", New: " NOT NULL"},
		{File: "store/budgets.go", Old: "	ON CONFLICT (organization_id, period_start, alert_threshold, token_limit) DO NOTHING\n", New: ""},
	}, plays: (*plan.Plan).Budgets},
	{name: "deliveries-apart", what: "deliveries are written in a transaction after the tick's", edits: []overlay.Edit{{
		File: "store/alerts.go", Old: "	queueDeliveries(batch, result, decisions)",
		New: "	batch.Queue(\"COMMIT\")\n	batch.Queue(\"BEGIN\")\n	queueDeliveries(batch, result, decisions)",
	}}},
	{name: "delivered-unsent", what: "a delivery is completed before it is sent", edits: []overlay.Edit{{
		File: "delivery/attempt.go", Old: "		err = w.deliver(ctx, job.Args.Channel, a)",
		New: "		go func() { _ = w.deliver(context.WithoutCancel(ctx), job.Args.Channel, a) }()",
	}}},
	{name: "no-second-attempt", what: "what a receiver refuses for now is given up", edits: []overlay.Edit{{
		File: "delivery/attempt.go", Old: "	if isPermanent(err) ||", New: "	if true || isPermanent(err) ||",
	}}},
	{name: "fresh-key", what: "each attempt has a key of its own", edits: []overlay.Edit{
		{File: "delivery/hook.go", Old: "client.Send(ctx, a.ID.String(), time.Now(), body)", New: "client.Send(ctx, time.Now().String(), time.Now(), body)"},
		{File: "delivery/writer.go", Old: "ID: messageID(a), To: r.Email", New: "ID: fmt.Sprintf(\"%p\", &n), To: r.Email"},
		{File: "delivery/writer.go", Old: "ID: a.NotificationID,", New: "ID: [16]byte{byte(time.Now().Nanosecond()), byte(time.Now().Nanosecond() >> 8), byte(time.Now().UnixMicro())},"},
		{File: "delivery/writer.go", Old: "	\"cmp\"\n", New: "	\"cmp\"\n	\"fmt\"\n"},
	}},
	{name: "never-at-first", what: "a first attempt counts as failed, though it has arrived", edits: []overlay.Edit{{
		File: "delivery/attempt.go", Old: "	return w.tell(job, a, err, began)",
		New: "	if err == nil && job.Attempt == 1 {\n		err = store.ErrNobody\n	}\n	return w.tell(job, a, err, began)",
	}}},
}
