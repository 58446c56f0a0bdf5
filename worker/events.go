package worker

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// EventName is the stable name of a log line: what alerts and searches may
// rely on, where sentences may be reworded. The names are the constants below
// and no others; docs/events.md is made from Events.
type EventName string

// Event is the field that every log line carries:
//
//	log.Info("lead acquired", Event(EventLeaderAcquired), zap.Int64("tick", last))
func Event(name EventName) zap.Field { return zap.String("event", string(name)) }

const (
	// EventWorkerStarted is written once, before anything is connected.
	EventWorkerStarted EventName = "worker.started"
	// EventWorkerStopping is written when a signal or an error ends the run.
	EventWorkerStopping EventName = "worker.stopping"
	// EventWorkerStopped is written last, after everything has been closed.
	EventWorkerStopped EventName = "worker.stopped"

	// EventDatabaseUnreachable is written for each attempt to connect that fails.
	EventDatabaseUnreachable EventName = "database.unreachable"
	// EventDatabaseConnected is written when the database answers and is fit to work on.
	EventDatabaseConnected EventName = "database.connected"
	// EventDatabaseRefused is written when the database answers and is not fit to work on.
	EventDatabaseRefused EventName = "database.refused"

	// EventLeaderAcquired is written when this worker has taken the lead.
	EventLeaderAcquired EventName = "leader.acquired"
	// EventLeaderLost is written when the lead's connection fails while leading.
	EventLeaderLost EventName = "leader.lost"
	// EventLeaderReleased is written when the lead is given up on purpose.
	EventLeaderReleased EventName = "leader.released"
	// EventFollowerWaiting is written when another worker turns out to lead, once per wait.
	EventFollowerWaiting EventName = "follower.waiting"

	// EventSettingsChanged is written by a new leader for each setting that it put in force.
	EventSettingsChanged EventName = "settings.changed"
	// EventSettingsDiffer is written by a follower for each setting that is not the one in force.
	EventSettingsDiffer EventName = "settings.differ"

	// EventTickCompleted is written after the commit of a tick that found work, and
	// after one that found none where the one before was thought to have left some.
	EventTickCompleted EventName = "tick.completed"
	// EventTickFailed is written when an error rolled a tick back.
	EventTickFailed EventName = "tick.failed"
	// EventTickCollided is written when another worker had written the same tick.
	EventTickCollided EventName = "tick.collided"
	// EventTickRewritten is written when the usage table was rewritten under a tick.
	EventTickRewritten EventName = "tick.rewritten"

	// EventAlertSent is written after the commit, for each alert that was notified.
	EventAlertSent EventName = "alert.sent"
	// EventAlertSuppressed is written after the commit, for each crossing that was not notified.
	EventAlertSuppressed EventName = "alert.suppressed"

	// EventBudgetBegun is written when what was used before a budget was set is being counted.
	EventBudgetBegun EventName = "budget.begun"
	// EventBudgetSent is written after the commit, for each alert of a budget that was notified.
	EventBudgetSent EventName = "budget.sent"
	// EventBudgetSuppressed is written after the commit, for each crossing of a budget that was not notified.
	EventBudgetSuppressed EventName = "budget.suppressed"

	// EventDeliveryStarted is written when the queue of deliveries is open, once per connection.
	EventDeliveryStarted EventName = "delivery.started"
	// EventDeliveryCompleted is written when an alert has been handed over to a channel.
	EventDeliveryCompleted EventName = "delivery.completed"
	// EventDeliveryRetried is written when handing it over failed and will be tried again.
	EventDeliveryRetried EventName = "delivery.retried"
	// EventDeliveryFailed is written when it is given up.
	EventDeliveryFailed EventName = "delivery.failed"
	// EventDeliveryQueue is written for what the queue of deliveries reports.
	EventDeliveryQueue EventName = "delivery.queue"

	// EventRecountDone is written after a tick that counted periods anew.
	EventRecountDone EventName = "recount.done"
	// EventRecountDeferred is written after a tick that put users back, their rows being locked.
	EventRecountDeferred EventName = "recount.deferred"
	// EventUserSetAside is written when the data of one user makes a statement fail.
	EventUserSetAside EventName = "user.set_aside"
	// EventRowsSkipped is written after a tick that met rows without a usable created_at.
	EventRowsSkipped EventName = "rows.skipped"

	// EventReconcileCompleted is written at the end of every reconciliation.
	EventReconcileCompleted EventName = "reconcile.completed"
	// EventReconcileFailed is written when a reconciliation ended in an error.
	EventReconcileFailed EventName = "reconcile.failed"
	// EventReconcileProgress is written every few seconds while a reconciliation goes on.
	EventReconcileProgress EventName = "reconcile.progress"
	// EventReconcileRepeated is written when a reconciliation has to start anew.
	EventReconcileRepeated EventName = "reconcile.repeated"
	// EventReconcileDifference is written for each total that reconciliation found wrong.
	EventReconcileDifference EventName = "reconcile.difference"

	// EventBellArmed is written when the leader goes to sleep on the bell, and at each renewal.
	EventBellArmed EventName = "bell.armed"
	// EventBellDisarmed is written when the leader silences the bell.
	EventBellDisarmed EventName = "bell.disarmed"
	// EventBellMuted is written by a new leader that polls in place of the bell.
	EventBellMuted EventName = "bell.muted"
	// EventListenerReconnecting is written when the listening connection is opened again.
	EventListenerReconnecting EventName = "listener.reconnecting"

	// EventHTTPListening is written when the probes and metrics are served.
	EventHTTPListening EventName = "http.listening"
	// EventHTTPFailed is written for what the HTTP server reports as an error.
	EventHTTPFailed EventName = "http.failed"

	// EventHeadroomUnknown is written when it could not be seen how far the server is from refusing.
	EventHeadroomUnknown EventName = "headroom.unknown"
	// EventTicksPruned is written when old ticks were deleted.
	EventTicksPruned EventName = "ticks.pruned"
	// EventStormSummary is written in place of repeated lines (see NewLogger).
	EventStormSummary EventName = "storm.summary"
)

// EventDoc documents one event: the levels that it is written at, what it
// tells whoever runs the worker, and the fields that it may carry.
type EventDoc struct {
	Name    EventName
	Levels  []zapcore.Level
	Meaning string
	Fields  []string
}

var (
	levelDebug = []zapcore.Level{zapcore.DebugLevel}
	levelInfo  = []zapcore.Level{zapcore.InfoLevel}
	levelWarn  = []zapcore.Level{zapcore.WarnLevel}
	levelError = []zapcore.Level{zapcore.ErrorLevel}
)

// Events is every event in the order of docs/events.md. Tests hold that page,
// and every log call, to it.
var Events = []EventDoc{
	{EventWorkerStarted, levelInfo, "The process has read its settings and begins.", []string{"version", "commit", "worker"}},
	{EventWorkerStopping, []zapcore.Level{zapcore.InfoLevel, zapcore.ErrorLevel}, "A signal, or an error that ends the run: the tick is finished or rolled back, the bell silenced, the lead released.", []string{"reason", "grace_ms"}},
	{EventWorkerStopped, levelInfo, "Everything is closed. A worker whose log ends without this line did not stop by itself.", []string{"uptime_ms"}},

	{EventDatabaseUnreachable, levelWarn, "The database does not answer, or not yet; tried again after a pause. Nothing is lost meanwhile: what commits is counted later.", []string{"sqlstate", "error", "retry_ms"}},
	{EventDatabaseConnected, levelInfo, "The database answers, is a primary and has a schema that this binary runs on.", []string{"server_version", "schema_version"}},
	{EventDatabaseRefused, levelError, "The database answers, and the worker must not work on it. `reason` says why: `schema_version` (run `tokenalert migrate up`, or the right version), `other_cluster` (the chain of ticks belongs to another cluster, as after a logical restore: `tokenalert migrate up` rebases), `read_only` (a standby, or read-only transactions), `shared_session` (a pooler hands a session that must be the worker's alone to others: set `TOKENALERT_LISTEN_URL` to the server's own address).", []string{"reason", "sqlstate", "error"}},

	{EventLeaderAcquired, levelInfo, "This worker leads from here on: it alone ticks, by its settings.", []string{"waited_ms", "thresholds", "time_zone", "bell"}},
	{EventLeaderLost, levelWarn, "The lead's connection failed, no answer came to ticks, or another leader has put its settings in force: this worker stopped ticking at once and competes again.", []string{"error", "led_ms"}},
	{EventLeaderReleased, levelInfo, "The lead is given up on purpose, and the waiting workers are told.", []string{"led_ms"}},
	{EventFollowerWaiting, levelInfo, "Another worker leads; this one is healthy and waits.", nil},

	{EventSettingsChanged, levelInfo, "The new leader put a setting in force that differs from the one before.", []string{"setting", "before", "after"}},
	{EventSettingsDiffer, levelWarn, "This follower is configured otherwise than what is in force: taking the lead, it would change that. Give all replicas the same settings.", []string{"setting", "configured", "in_force"}},

	{EventTickCompleted, []zapcore.Level{zapcore.InfoLevel, zapcore.DebugLevel}, "What had committed is counted. Debug for a `window` tick without alerts, of which there may be hundreds a second; info otherwise, and while rows are left to the next tick, up to the first that leaves none.", []string{"tick", "kind", "rows", "users", "alerts", "recounts", "undecided", "bounded", "duration_ms", "behind_ms"}},
	{EventTickFailed, levelWarn, "A tick was rolled back, having written nothing, and is done again after a pause.", []string{"kind", "sqlstate", "error", "retry_ms"}},
	{EventTickCollided, levelWarn, "Another worker wrote this tick first; ours was rolled back. Expected once or twice while the lead moves; repeated, two workers lead.", []string{"retry_ms"}},
	{EventTickRewritten, levelInfo, "`ai_usage_logs` was truncated or rewritten between the tick's snapshot and its read; ours was rolled back, and the next one is a full count.", nil},

	{EventAlertSent, levelInfo, "A user stands at or above a threshold and has been told. Without a latency where no single row is known to have crossed it: after a correction or a full count. Never suppressed.", []string{"user", "organization", "threshold", "percent", "used", "limit", "period_start", "period_end", "notification", "latency_ms", "latency_from"}},
	{EventAlertSuppressed, levelInfo, "A user stands at or above a threshold and was not told, for `reason`: `superseded` (a higher threshold was told), `period_closed` (committed after its period had ended), `threshold_added` (the user already stood above a threshold that the settings gained), `carried_over` (reset day, zone or organization changed, and the user was told in the overlapping period), `backfill` (first start with `TOKENALERT_BACKFILL=record`), `muted`, `already_told` (under the same limit in the same period). Never suppressed from the log.", []string{"user", "organization", "threshold", "percent", "used", "limit", "period_start", "period_end", "notification", "latency_ms", "latency_from", "reason"}},

	{EventBudgetBegun, []zapcore.Level{zapcore.InfoLevel, zapcore.WarnLevel}, "A budget was set, or begins on another day or in another zone: those who have used of it are on the list of corrections, and its admins are told once all of them are counted. Warn where that failed; it is tried again.", []string{"recounts", "duration_ms", "sqlstate", "error", "retry_ms"}},
	{EventBudgetSent, levelInfo, "An organization stands at or above a threshold of its budget, and its admins have been told. Never suppressed.", []string{"organization", "threshold", "percent", "used", "limit", "period_start", "period_end", "notification", "admins"}},
	{EventBudgetSuppressed, levelInfo, "An organization stands at or above a threshold of its budget, and nobody was told, for `reason`: as in `alert.suppressed`, or `no_admin` (it has no admin who is not muted, and there is no webhook). Never suppressed from the log.", []string{"organization", "threshold", "percent", "used", "limit", "period_start", "period_end", "reason"}},

	{EventDeliveryStarted, levelInfo, "This worker takes deliveries from the queue, by these channels.", []string{"channels"}},
	{EventDeliveryCompleted, levelInfo, "An alert has been handed over to a channel. Never suppressed.", []string{"alert", "channel", "user", "organization", "admin", "threshold", "attempt", "delivery_ms", "duration_ms"}},
	{EventDeliveryRetried, levelWarn, "An alert could not be handed over; tried again at `retry_at`, with growing pauses, for a day.", []string{"alert", "channel", "user", "organization", "admin", "threshold", "attempt", "error", "retry_at"}},
	{EventDeliveryFailed, levelError, "An alert is not handed over by this channel: refused for good, or tried for a day. `tokenalert deliveries retry` begins anew. Never suppressed.", []string{"alert", "channel", "user", "organization", "admin", "threshold", "attempt", "error"}},
	{EventDeliveryQueue, []zapcore.Level{zapcore.WarnLevel, zapcore.ErrorLevel}, "The queue of deliveries met an error, mostly with the database, and goes on by itself: what waits in it is not lost. Or the template of an organization has placeholders that nothing is known for.", []string{"reason", "error", "retry_ms"}},

	{EventRecountDone, levelInfo, "Rows, users or limits were corrected, and the periods concerned counted anew.", []string{"users", "periods"}},
	{EventRecountDeferred, levelInfo, "Users who were about to be told are locked by the host; they were put back, and are told at a later tick.", []string{"users"}},
	{EventUserSetAside, levelError, "The data of this user, or of this organization's budget, makes a statement fail. Everyone else is counted; this user is tried again at `retry_at`.", []string{"user", "organization", "sqlstate", "error", "retry_at"}},
	{EventRowsSkipped, levelWarn, "Rows with a `created_at` that is missing, infinite or outside of 2000–2100 were not counted.", []string{"rows"}},

	{EventReconcileCompleted, levelInfo, "The totals were compared with the rows.", []string{"users", "differing", "duration_ms"}},
	{EventReconcileFailed, levelWarn, "The totals could not be compared with the rows; tried again at the next interval, or in an hour where that is sooner.", []string{"sqlstate", "error"}},
	{EventReconcileProgress, levelInfo, "The totals are being compared with the rows. Written every few seconds where it takes that long; how far it is goes by the planner's estimate of the rows.", []string{"done", "rows", "rows_per_second", "duration_ms", "remaining_ms"}},
	{EventReconcileRepeated, levelInfo, "`ai_usage_logs` was truncated or rewritten, or the time zone in force changed, just when the comparison began; it starts anew, up to three times.", []string{"error"}},
	{EventReconcileDifference, levelWarn, "A total differs from the rows; a recount was ordered. Triggers that were switched off during a load do this. With `organization` it is the user's share of that organization's budget; with that alone the sum of the shares.", []string{"user", "organization", "period_start", "counted", "actual"}},

	{EventBellArmed, levelDebug, "Nothing to do: the next insert rings.", []string{"armed_until"}},
	{EventBellDisarmed, levelDebug, "The leader is awake, and inserts do not ring.", nil},
	{EventBellMuted, levelInfo, "The worker polls in place of the bell; `reason` says why.", []string{"reason"}},
	{EventListenerReconnecting, levelWarn, "The connection that hears the bell broke and is opened again; meanwhile the worker ticks at each renewal.", []string{"error", "retry_ms"}},

	{EventHTTPListening, levelInfo, "Probes and metrics are served.", []string{"port"}},
	{EventHTTPFailed, levelError, "The HTTP server met an error. Counting goes on.", []string{"error"}},

	{EventHeadroomUnknown, levelWarn, "How far the server is from refusing connections or writes could not be looked up; tried again within a minute.", []string{"sqlstate", "error"}},
	{EventTicksPruned, []zapcore.Level{zapcore.DebugLevel, zapcore.WarnLevel}, "Ticks older than `TOKENALERT_TICK_RETENTION` were deleted; warn where that failed.", []string{"ticks", "error"}},
	{EventStormSummary, []zapcore.Level{zapcore.WarnLevel, zapcore.ErrorLevel}, "Lines that repeat were counted in place of being written; at the level of the line that repeated.", []string{"repeated", "user", "organization", "setting", "error", "times", "since"}},
}

// FieldDoc says what a field holds, and in which unit.
type FieldDoc struct{ Name, Meaning string }

// EventFields is every field that an event may carry, by name.
var EventFields = []FieldDoc{
	{"actual", "tokens that the rows add up to"},
	{"admin", "id of the admin who is told of the alert; without it, its user is, or of a budget a webhook"},
	{"admins", "how many admins have been told"},
	{"after", "the value that is in force now"},
	{"alert", "id of the alert, which is also that of the delivery"},
	{"alerts", "alerts written, whether told or not"},
	{"armed_until", "the time at which the bell falls silent unless renewed"},
	{"attempt", "how many times it has been tried"},
	{"before", "the value that was in force"},
	{"behind_ms", "age, as the tick began, of the oldest commit that it left uncounted, 0 when none, in milliseconds"},
	{"bell", "`TOKENALERT_BELL`"},
	{"bounded", "whether the tick ended earlier than now, leaving rows to the next"},
	{"channel", "`notification` (into another database), `email` or `webhook`"},
	{"channels", "the channels that are set up"},
	{"commit", "the commit that the binary was built from"},
	{"configured", "the value that this worker is configured with"},
	{"counted", "tokens in the running total"},
	{"delivery_ms", "from the alert to its delivery, in milliseconds"},
	{"differing", "users whose total differs"},
	{"done", "how much of it is done, in percent"},
	{"duration_ms", "what it took, in milliseconds"},
	{"error", "the error's text, addresses masked"},
	{"grace_ms", "how long stopping may take, in milliseconds"},
	{"in_force", "the value that the leader works with"},
	{"kind", "`first`, `full` or `window`"},
	{"latency_from", "what `latency_ms` is measured from: `commit`, the time of the commit (with `track_commit_timestamp`), or `row`, the row's `created_at`"},
	{"latency_ms", "from the commit of the usage to that of the alert, in milliseconds"},
	{"led_ms", "how long this worker led, in milliseconds"},
	{"limit", "the user's monthly limit, or the budget, as the deciding transaction saw it, in tokens"},
	{"notification", "id of the notification; the same when delivered again"},
	{"organization", "id of the user's organization, where there is one; or of that whose budget it is"},
	{"percent", "used / limit, one decimal, rounded down"},
	{"period_end", "the first instant after the period"},
	{"period_start", "the first instant of the period"},
	{"periods", "periods counted anew"},
	{"port", "the TCP port"},
	{"reason", "why, as one of the words given above or in plain words"},
	{"recounts", "corrections that the tick dealt with"},
	{"remaining_ms", "what it will take yet if it goes on as before, in milliseconds"},
	{"repeated", "the event that repeated"},
	{"retry_at", "the time of the next attempt"},
	{"retry_ms", "the pause before the next attempt, in milliseconds"},
	{"rows", "rows of usage"},
	{"rows_per_second", "rows read in a second, on average"},
	{"schema_version", "version of our schema in the database"},
	{"server_version", "version of PostgreSQL"},
	{"setting", "name of the setting"},
	{"since", "the time from which the lines were counted"},
	{"sqlstate", "PostgreSQL's error code, where the error is PostgreSQL's"},
	{"threshold", "the threshold that was crossed, in percent"},
	{"thresholds", "`TOKENALERT_THRESHOLDS`"},
	{"tick", "number of the tick in the chain"},
	{"ticks", "ticks deleted"},
	{"time_zone", "`TOKENALERT_TIME_ZONE`"},
	{"times", "lines counted and not written; the first, which was written, is not among them"},
	{"undecided", "users and periods left to the next ticks to decide, as there were more than one tick tells"},
	{"uptime_ms", "how long the process ran, in milliseconds"},
	{"used", "tokens used in the period"},
	{"user", "id of the user"},
	{"users", "number of users"},
	{"version", "version of tokenalert"},
	{"waited_ms", "how long this worker waited for the lead, in milliseconds"},
	{"worker", "the name that this process signs its ticks with"},
}
