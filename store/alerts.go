package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Decision is what follows for one candidate.
type Decision struct {
	UserID uuid.UUID // zero: of a budget
	// OrganizationID is whose budget it is, where it is of one.
	OrganizationID uuid.UUID
	PeriodStart    time.Time
	Marks          []int32
	PolicySeen     int64   // under which this was decided; 0: as before
	TimeZone       *string // whose dates messages name; nil: that of the settings
	Alerts         []Alert
}

func (d *Decision) ofBudget() bool { return d.UserID == uuid.Nil }

// subject is who is decided on anew where this was not written: a user, or the
// budget of an organization.
func (d *Decision) subject() (user, organization *uuid.UUID) {
	if d.ofBudget() {
		return nil, &d.OrganizationID
	}
	return &d.UserID, nil
}

// An Alert is one crossed threshold. ID and NotificationID derive from the
// unique key (user, period, threshold, limit), so that what is delivered again
// after a failover carries the same.
type Alert struct {
	ID             uuid.UUID
	OrganizationID uuid.UUID
	PeriodEnd      time.Time
	Threshold      int32
	TokenLimit     int64
	TokensUsed     int64
	PercentTenths  int64  // tenths of a percent, rounded down
	Reason         string // why nobody is told; empty: the user is told
	NotificationID uuid.UUID
	// Noticed: the notification is there from before. The user was deleted since, with
	// the alert, and made again under the same id.
	Noticed     bool
	Title, Body string
	Link        string
	Newest      *time.Time
	Channels    []string // by which it is delivered, besides the notification
	ToAdmins    bool     // the admins of the organization are told as well, of what About says
	About       *Candidate
	Admins      []AdminNotice
}

// OfRow reports whether the user is told for a row of the window, not for a
// correction; nor is a budget's.
func (a *Alert) OfRow() bool { return a.Reason == "" && a.Newest != nil }

// An AdminNotice tells an admin of somebody's alert. Its ID derives from the
// alert's key and the admin's id.
type AdminNotice struct {
	ID, UserID  uuid.UUID
	Title, Body string
	Channels    []string // by which it is delivered, besides the notification
}

// An Outcome says what became of an alert.
type Outcome struct {
	Alert
	UserID      uuid.UUID // zero: of a budget
	PeriodStart time.Time
	// Inserted is false where this user was told the same for the same limit
	// and period before.
	Inserted bool
	// Latency is the time from the commit of the row that crossed to the commit
	// of the alert. Without track_commit_timestamp it counts from the row's
	// created_at, and FromCommit is false. Known only for who was told.
	Latency    *time.Duration
	FromCommit bool
}

// uuids are parameters. pgx writes them as they are, where it would first make a
// string of each uuid.UUID: thirty times as fast.
type uuids [][16]byte

// alertsPerStatement bounds one statement, whose joins may compare each with
// each where the planner expects few.
const alertsPerStatement = 250

// latenciesPerTick bounds how many latencies are asked for after a commit.
const latenciesPerTick = 1_000

// How long until a user is looked at again whose row somebody holds, and one
// whose data made a statement fail.
const (
	heldRetry     = 250 * time.Millisecond
	SetAsideRetry = 5 * time.Minute
)

// writeDecisions takes the users to be told (with FOR KEY SHARE SKIP LOCKED,
// see lock_users), inserts alert rows and notifies only of what was inserted,
// and moves the marks. Who was not obtained is put on recounts again, with the
// period, which may have ended by then.
//
// Where everything is counted ($22) it may be that what stands is not to be told,
// which the window tick that follows does not know any more. So the marks are moved
// also of who is not to be told and was not obtained, at the cost of a row that says so.
const writeDecisions = `WITH
alerts AS MATERIALIZED (
	SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::integer[], $7::bigint[],
		$8::bigint[], $9::bigint[], $10::text[], $11::uuid[], $12::text[], $13::text[], $14::text[])
	AS a (id, user_id, organization_id, period_start, period_end, threshold, token_limit,
		tokens_used, percent_tenths, reason, notification_id, title, body, link)
),
wanted AS MATERIALIZED (
	SELECT DISTINCT user_id FROM alerts
),
locked AS MATERIALIZED (
	SELECT tokenalert.lock_users(array_agg(user_id)) AS user_id FROM wanted HAVING count(*) > 0
),
inserted AS (
	INSERT INTO token_limit_alerts (id, user_id, organization_id, alert_threshold, alert_sent, alert_type, created_at, sent_at,
		period_start, period_end, token_limit, tokens_used, percent_used, reason, notification_id, tick_id)
	SELECT a.id, a.user_id, a.organization_id, a.threshold, a.reason = '', 'notification', $20::timestamptz,
	       CASE WHEN a.reason = '' THEN $20::timestamptz END, a.period_start, a.period_end, a.token_limit, a.tokens_used,
	       a.percent_tenths / 10.0, nullif(a.reason, ''), CASE WHEN a.reason = '' THEN a.notification_id END, $15::bigint
	FROM locked JOIN alerts a USING (user_id)
	ON CONFLICT (user_id, period_start, alert_threshold, token_limit) DO NOTHING
	RETURNING id
),
told AS (
	INSERT INTO notifications (id, organization_id, user_id, title, message, notification_type, link_url)
	SELECT a.notification_id, a.organization_id, a.user_id, a.title, a.body, 'token_limit_alert', a.link
	FROM inserted JOIN alerts a USING (id) WHERE a.reason = '' AND a.title IS NOT NULL
	RETURNING 1 -- reads no column, which the role may not
),
marked AS (
	UPDATE tokenalert.usage_periods p SET marks = m.marks::integer[], policy_seen = greatest(p.policy_seen, m.seen)
	FROM unnest($16::uuid[], $17::timestamptz[], $18::text[], $21::bigint[]) AS m (user_id, period_start, marks, seen)
	WHERE p.user_id = m.user_id AND p.period_start = m.period_start
	  AND (m.user_id NOT IN (SELECT user_id FROM wanted) OR m.user_id IN (SELECT user_id FROM locked)
	       OR $22::boolean AND m.user_id NOT IN (SELECT user_id FROM alerts WHERE reason = ''))
),
held AS (
	INSERT INTO tokenalert.recounts (user_id, at, due_at, cause)
	SELECT DISTINCT a.user_id, a.period_start, $20::timestamptz + $19::interval, 'held' FROM alerts a
	WHERE NOT EXISTS (SELECT FROM locked l WHERE l.user_id = a.user_id)
	RETURNING user_id
)
SELECT ARRAY(SELECT id FROM inserted), ARRAY(SELECT DISTINCT user_id FROM held),
       -- The server must fail here: our COMMIT follows without waiting for what we think.
       (SELECT CASE WHEN n > 0 THEN (n || ' ` + swallowed + `')::integer END
        FROM (SELECT (SELECT count(*) FROM inserted JOIN alerts a USING (id) WHERE a.reason = '' AND a.title IS NOT NULL) - (SELECT count(*) FROM told) AS n OFFSET 0 /* once */) dropped)`

// swallowed marks the error of a notification that the host dropped.
const swallowed = "notifications dropped without a word"

// commitTimes returns when the newest usage row of each user committed, and
// what the server's clock says. Only with track_commit_timestamp, which few
// switch on (manual 20.6). OFFSET 0 keeps the partial index of xact_id out: on a
// young table the planner takes it for free, and reads all of it for each user.
const commitTimes = `
SELECT clock_timestamp(), ARRAY(
	SELECT CASE WHEN current_setting('track_commit_timestamp') = 'on' THEN (
		SELECT pg_xact_commit_timestamp(l.xact_id::xid) FROM (
			SELECT xact_id FROM ai_usage_logs l WHERE l.user_id = w.user_id AND l.created_at = w.newest OFFSET 0
		) l WHERE l.xact_id IS NOT NULL LIMIT 1) END
	FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS w (user_id, newest, n) ORDER BY n)`

// write puts the decisions into the tick's transaction and commits it. Those that
// are to be taken later it leaves to other ticks.
func write(ctx context.Context, conn *pgxpool.Conn, q TickRequest, result *TickResult, decisions, later []Decision) error {
	batch := &pgx.Batch{}
	if q.Kind == Window && q.Timeouts > 0 { // to write less takes less, and holds users of the host
		batch.Queue("SELECT set_config('statement_timeout', $1, true)", inMilliseconds(windowTimeout))
	}
	if q.Settings != nil {
		q.Settings.queue(batch)
	}
	if n := most(decisions, q.Decisions); q.Kind == Window && len(decisions) > n {
		result.Left += int64(len(decisions) - n)
		later = append(later, decisions[n:]...)
		decisions = decisions[:n]
	}
	if len(later) > 0 {
		queueUndecided(batch, result.Now, later)
	}
	for _, some := range inChunks(decisions) {
		if !q.Isolated {
			queueDecisions(batch, result, some)
		} else if err := writeIsolated(ctx, conn, result, some); err != nil {
			return err
		}
	}
	queueDeliveries(batch, result, decisions)
	if q.Kind == Window && !slices.ContainsFunc(decisions, func(d Decision) bool { return len(d.Alerts) > 0 }) {
		// Nobody was told, so nothing is lost with a crash that the rows do not
		// bring back: the chain goes back with the totals. The host's commits do
		// not wait for our flushes (manual 30.4 "Asynchronous Commit").
		batch.Queue("SET LOCAL synchronous_commit = off")
	}
	committed := false
	batch.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" { // what a transaction that had failed answers
			return fmt.Errorf("commit: the server answered %s", tag)
		}
		committed = true
		return nil
	})
	queueLatencies(batch, result, decisions)
	if err := conn.SendBatch(ctx, batch).Close(); err != nil && !committed {
		return err
	}
	return nil // what follows the commit only measures
}

// queueUndecided leaves decisions to later ticks, which take them anew.
func queueUndecided(batch *pgx.Batch, now time.Time, decisions []Decision) {
	var users, organizations []*uuid.UUID
	var starts []time.Time
	for _, d := range decisions {
		user, organization := d.subject()
		users, organizations, starts = append(users, user), append(organizations, organization), append(starts, d.PeriodStart)
	}
	batch.Queue(`INSERT INTO tokenalert.recounts (user_id, organization_id, at, due_at, cause)
		SELECT u.user_id, u.organization_id, u.at, $4::timestamptz, 'undecided'
		FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS u (user_id, organization_id, at)`, users, organizations, starts, now)
}

// writeIsolated writes decisions under a savepoint. Where they fail for the data
// of one, each half is tried by itself, down to the one that fails alone: that
// user is set aside and looked at again later. What fails for another reason
// fails the tick.
func writeIsolated(ctx context.Context, conn *pgxpool.Conn, result *TickResult, decisions []Decision) error {
	outcomes, held := len(result.Outcomes), len(result.Held)
	batch := &pgx.Batch{}
	batch.Queue("SAVEPOINT some_users")
	queueDecisions(batch, result, decisions)
	batch.Queue("SET CONSTRAINTS ALL IMMEDIATE")
	batch.Queue("RELEASE SAVEPOINT some_users")
	failed := conn.SendBatch(ctx, batch).Close()
	if failed == nil || !IsData(failed) {
		return failed
	}
	result.Outcomes, result.Held = result.Outcomes[:outcomes], result.Held[:held]
	// One after the other: a failed transaction prepares nothing but its end.
	for _, sql := range []string{"ROLLBACK TO SAVEPOINT some_users", "RELEASE SAVEPOINT some_users"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("set user aside: %w", err)
		}
	}
	if half := len(decisions) / 2; half > 0 {
		if err := writeIsolated(ctx, conn, result, decisions[:half]); err != nil {
			return err
		}
		return writeIsolated(ctx, conn, result, decisions[half:])
	}
	d := decisions[0]
	if noticed, err := noticedBefore(ctx, conn, failed, d); err != nil {
		return fmt.Errorf("set user aside: %w", err)
	} else if noticed {
		return writeIsolated(ctx, conn, result, decisions)
	}
	result.SetAside = append(result.SetAside, SetAside{Subject{d.UserID, d.OrganizationID}, failed})
	user, organization := d.subject()
	if _, err := conn.Exec(ctx, `INSERT INTO tokenalert.recounts (user_id, organization_id, at, due_at, cause)
		VALUES ($1, $2, $3, $4::timestamptz + $5::interval, 'set_aside')`,
		user, organization, d.PeriodStart, result.Now, SetAsideRetry); err != nil {
		return fmt.Errorf("set user aside: %w", err)
	}
	return nil
}

// noticedBefore reports whether a decision failed since its notification is there
// already, and has it written without.
func noticedBefore(ctx context.Context, conn *pgxpool.Conn, failed error, d Decision) (bool, error) {
	e, ok := errors.AsType[*pgconn.PgError](failed)
	if !ok || e.Code != codeUnique || e.TableName != "notifications" || d.UserID == uuid.Nil {
		return false, nil
	}
	var isKey bool
	err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('notifications') AND contype = 'p' AND conname = $1)",
		e.ConstraintName).Scan(&isKey)
	if err != nil || !isKey {
		return false, err
	}
	noticed := false
	for i := range d.Alerts {
		if a := &d.Alerts[i]; a.Reason == "" && !a.Noticed {
			a.Noticed, a.Channels, noticed = true, nil, true
			for j := range a.Admins { // those of then were told with the user
				a.Admins[j].Channels = nil
			}
		}
	}
	return noticed, nil
}

// ofThisTick reports whether alert a was inserted by the tick of this number, taken
// at that instant, and not by an older one: the chain may begin anew, and with it its
// numbers. The host's created_at may keep less than microseconds, or have a trigger set
// it.
func ofThisTick(number, at string) string {
	return `a.tick_id = ` + number + `::bigint AND a.created_at::timestamptz > ` + at + `::timestamptz - interval '1 second'`
}

// tellAdmins tells them of alerts of tick $6, taken at $8, that were inserted and
// are told.
var tellAdmins = `
INSERT INTO notifications (id, organization_id, user_id, title, message, notification_type, link_url)
SELECT w.id, a.organization_id, w.user_id, w.title, w.body, 'token_limit_alert', w.link
FROM (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $7::text[]) AS w (id, alert_id, user_id, title, body, link) OFFSET 0) w
JOIN token_limit_alerts a ON a.id = w.alert_id AND ` + ofThisTick("$6", "$8") + ` AND a.alert_sent
ON CONFLICT DO NOTHING -- see Alert.Noticed
`

func queueAdmins(batch *pgx.Batch, tick *TickResult, decisions []Decision) {
	var ids, alerts, users uuids
	var titles, bodies, links []string
	for _, d := range decisions {
		for _, a := range d.Alerts {
			for _, n := range a.Admins {
				ids, alerts, users = append(ids, n.ID), append(alerts, a.ID), append(users, n.UserID)
				titles, bodies, links = append(titles, n.Title), append(bodies, n.Body), append(links, a.Link)
			}
		}
	}
	if len(ids) > 0 {
		batch.Queue(tellAdmins, ids, alerts, users, titles, bodies, tick.ID, links, tick.Now)
	}
}

func queueDecisions(batch *pgx.Batch, result *TickResult, decisions []Decision) {
	ofUsers, ofBudgets := apart(decisions)
	if len(ofUsers) > 0 {
		queueUserDecisions(batch, result, ofUsers)
	}
	if len(ofBudgets) > 0 {
		queueBudgetDecisions(batch, result, ofBudgets)
	}
}

// apart are the decisions on users and those on budgets.
func apart(decisions []Decision) (ofUsers, ofBudgets []Decision) {
	if !slices.ContainsFunc(decisions, func(d Decision) bool { return d.ofBudget() }) {
		return decisions, nil
	}
	for _, d := range decisions {
		if d.ofBudget() {
			ofBudgets = append(ofBudgets, d)
		} else {
			ofUsers = append(ofUsers, d)
		}
	}
	return ofUsers, ofBudgets
}

func queueUserDecisions(batch *pgx.Batch, result *TickResult, decisions []Decision) {
	var (
		ids, users, orgs, notifications, markUsers uuids
		starts, ends, markStarts                   []time.Time
		thresholds                                 []int32
		limits, used, tenths, seen                 []int64
		titles                                     []*string
		reasons, bodies, links, marks              []string
	)
	for _, d := range decisions {
		markUsers, markStarts = append(markUsers, d.UserID), append(markStarts, d.PeriodStart)
		marks, seen = append(marks, arrayLiteral(d.Marks)), append(seen, d.PolicySeen)
		for _, a := range d.Alerts {
			ids, users, orgs = append(ids, a.ID), append(users, d.UserID), append(orgs, a.OrganizationID)
			starts, ends = append(starts, d.PeriodStart), append(ends, a.PeriodEnd)
			thresholds, limits = append(thresholds, a.Threshold), append(limits, a.TokenLimit)
			used, tenths = append(used, a.TokensUsed), append(tenths, a.PercentTenths)
			reasons, notifications = append(reasons, a.Reason), append(notifications, a.NotificationID)
			title := &a.Title
			if a.Noticed {
				title = nil
			}
			titles, bodies, links = append(titles, title), append(bodies, a.Body), append(links, a.Link)
		}
	}
	batch.Queue(writeDecisions, ids, users, orgs, starts, ends, thresholds, limits, used, tenths, reasons, notifications,
		titles, bodies, links, result.ID, markUsers, markStarts, marks, heldRetry, result.Now, seen, result.Kind != Window).QueryRow(func(row pgx.Row) error {
		var inserted, held []uuid.UUID
		if err := row.Scan(&inserted, &held, nil); err != nil {
			return fmt.Errorf("write decisions: %w", droppedError(err))
		}
		result.Held = append(result.Held, held...)
		result.addOutcomes(decisions, inserted, held)
		return nil
	})
	queueAdmins(batch, result, decisions)
}

// droppedError tells an error of a notification that the host dropped.
func droppedError(err error) error {
	if SQLState(err) == codeInvalidText && strings.Contains(err.Error(), swallowed) {
		return errSwallowed
	}
	return err
}

// addOutcomes notes what became of each alert, but for users who were not obtained.
func (r *TickResult) addOutcomes(decisions []Decision, inserted, held []uuid.UUID) {
	for _, d := range decisions {
		if slices.Contains(held, d.UserID) {
			continue
		}
		for _, a := range d.Alerts {
			r.Outcomes = append(r.Outcomes, Outcome{
				Alert: a, UserID: d.UserID, PeriodStart: d.PeriodStart, Inserted: !a.Noticed && slices.Contains(inserted, a.ID),
			})
		}
	}
}

// queueLatencies asks, after the commit and in the same round trip, how long
// ago the rows that crossed had committed.
func queueLatencies(batch *pgx.Batch, result *TickResult, decisions []Decision) {
	var users uuids
	var newest []time.Time
	var asked []uuid.UUID // the alerts
	for _, d := range decisions {
		for _, a := range d.Alerts {
			if a.OfRow() {
				asked, users, newest = append(asked, a.ID), append(users, d.UserID), append(newest, *a.Newest)
			}
		}
	}
	if len(users) == 0 || len(users) > latenciesPerTick {
		return
	}
	batch.Queue(commitTimes, users, newest).QueryRow(func(row pgx.Row) error {
		var now time.Time
		var committed []*time.Time
		if err := row.Scan(&now, &committed); err != nil {
			return fmt.Errorf("commit times: %w", err)
		}
		of := make(map[uuid.UUID]*time.Time, len(asked)) // nil: not known
		for n, id := range asked {
			of[id] = committed[n]
		}
		for i := range result.Outcomes {
			o := &result.Outcomes[i]
			at, told := of[o.ID]
			if !told || !o.Inserted {
				continue
			}
			since := *o.Newest
			if at != nil {
				since, o.FromCommit = *at, true
			}
			latency := max(now.Sub(since), 0)
			o.Latency = &latency
		}
		return nil
	})
}

// weight is how many rows are written for a decision, about.
func weight(d Decision) int { return 1 + len(d.Alerts) + adminsTold(d) }

func adminsTold(d Decision) int {
	n := 0
	for _, a := range d.Alerts {
		n += len(a.Admins)
	}
	return n
}

// most is how many decisions, the first ones, a tick writes: so many, or fewer
// where admins are told of them. One at least.
func most(decisions []Decision, bound int) int {
	told := 0
	for i, d := range decisions {
		if told += 1 + adminsTold(d); told > bound {
			return max(i, 1)
		}
	}
	return len(decisions)
}

// readAdmins has the admins of the organizations told whose alerts ask for it.
func readAdmins(ctx context.Context, conn *pgxpool.Conn, q TickRequest, decisions []Decision) error {
	admins := map[uuid.UUID][]Admin{}
	for _, d := range decisions {
		for _, a := range d.Alerts {
			if a.ToAdmins {
				admins[a.OrganizationID] = nil
			}
		}
	}
	if len(admins) == 0 {
		return nil
	}
	rows, err := conn.Query(ctx, `SELECT o.id, m.user_id, m.full_name, m.language, m.channels
		FROM unnest($1::uuid[]) AS o (id), LATERAL tokenalert.admins(o.id) m WHERE NOT m.muted`, slices.Collect(maps.Keys(admins)))
	if err != nil {
		return fmt.Errorf("read the admins: %w", err)
	}
	var organization uuid.UUID
	var m Admin
	_, err = pgx.ForEachRow(rows, []any{&organization, &m.UserID, &m.FullName, &m.Language, &m.Channels}, func() error {
		admins[organization] = append(admins[organization], m)
		m = Admin{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the admins: %w", err)
	}
	for _, d := range decisions {
		for i := range d.Alerts {
			if a := &d.Alerts[i]; a.ToAdmins {
				q.TellAdmins(a, admins[a.OrganizationID])
			}
		}
	}
	return nil
}

// inChunks cuts decisions into parts of bounded size.
func inChunks(decisions []Decision) [][]Decision {
	var chunks [][]Decision
	size, from := 0, 0
	for i, d := range decisions {
		size += weight(d)
		if size >= alertsPerStatement {
			chunks, from, size = append(chunks, decisions[from:i+1]), i+1, 0
		}
	}
	if from < len(decisions) {
		chunks = append(chunks, decisions[from:])
	}
	return chunks
}

// arrayLiteral writes an array as PostgreSQL reads it, because an array of
// arrays must be rectangular.
func arrayLiteral(n []int32) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(v)))
	}
	b.WriteByte('}')
	return b.String()
}
