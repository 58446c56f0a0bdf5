package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A ToldAlert is what a delivery says: the alert's row, and who it is about, as
// of now.
type ToldAlert struct {
	ID, UserID, OrganizationID, NotificationID uuid.UUID
	// Budget is whether it is of the organization's budget, and so of no user.
	Budget bool

	Threshold              int32 // percent
	TokensUsed, TokenLimit int64
	PeriodStart, PeriodEnd time.Time
	CreatedAt              time.Time // the tick's now
	FullName               string
	Language               *string
	OrganizationLanguage   *string // for who has none
	TimeZone               *string // Delivery.TimeZone
	// Admin is who is told of it, nil where that is the user.
	Admin *Admin
}

// ErrNobody ends a delivery that is no failure: nobody is left to be told. The
// queue keeps its text, by which what was given up is told from it.
var ErrNobody = errors.New("nobody is left to be told: the alert is gone, with its user, or the admin is none any more")

// Alert returns an alert that is to be delivered, nil where it is gone: its user
// has been deleted, or who is told of it is no admin any more.
func (q *Queue) Alert(ctx context.Context, d Delivery) (*ToldAlert, error) {
	a, err := q.alertOfUser(ctx, d)
	// Of a budget nobody is told but admins, and a webhook.
	if err == nil && a == nil && (d.Admin != nil || d.Channel == ChannelWebhook) {
		a, err = q.alertOfBudget(ctx, d)
	}
	if err != nil {
		return nil, fmt.Errorf("read the alert: %w", err)
	}
	if a == nil || d.Admin != nil && a.Admin == nil {
		return nil, nil
	}
	return a, nil
}

func (q *Queue) alertOfUser(ctx context.Context, d Delivery) (*ToldAlert, error) {
	a := ToldAlert{ID: d.AlertID, TimeZone: d.TimeZone}
	var name *string
	err := q.store.pool.QueryRow(ctx, `
		SELECT a.user_id, a.organization_id, a.notification_id, a.alert_threshold,
		       greatest(least(a.tokens_used, 9223372036854775807), -9223372036854775808)::bigint, a.token_limit,
		       a.period_start, a.period_end, a.created_at, left(u.full_name, 200),
		       coalesce(p.language, left(u.language, 50)), o.language,
		       CASE WHEN $2::uuid IS NOT NULL THEN (SELECT to_jsonb(m) FROM tokenalert.admins(a.organization_id) m WHERE m.user_id = $2) END
		FROM token_limit_alerts a CROSS JOIN LATERAL (SELECT * FROM tokenalert.accounts() u WHERE u.user_id = a.user_id OFFSET 0) u
		LEFT JOIN tokenalert.policies p ON p.user_id = a.user_id LEFT JOIN tokenalert.policies o ON o.organization_id = a.organization_id
		WHERE a.id = $1 AND a.alert_sent AND a.notification_id IS NOT NULL`, d.AlertID, d.Admin).
		Scan(&a.UserID, &a.OrganizationID, &a.NotificationID, &a.Threshold, &a.TokensUsed, &a.TokenLimit,
			&a.PeriodStart, &a.PeriodEnd, &a.CreatedAt, &name, &a.Language, &a.OrganizationLanguage, &a.Admin)
	if name != nil {
		a.FullName = *name
	}
	return orNone(&a, err)
}

func (q *Queue) alertOfBudget(ctx context.Context, d Delivery) (*ToldAlert, error) {
	a := ToldAlert{ID: d.AlertID, Budget: true, TimeZone: d.TimeZone}
	err := q.store.pool.QueryRow(ctx, `
		SELECT a.organization_id, a.notification_id, a.alert_threshold,
		       greatest(least(a.tokens_used, 9223372036854775807), -9223372036854775808)::bigint, a.token_limit,
		       a.period_start, a.period_end, a.created_at, o.language,
		       CASE WHEN $2::uuid IS NOT NULL THEN (SELECT to_jsonb(m) FROM tokenalert.admins(a.organization_id) m WHERE m.user_id = $2) END
		FROM tokenalert.budget_alerts a
		LEFT JOIN tokenalert.policies o ON o.organization_id = a.organization_id
		WHERE a.id = $1 AND a.alert_sent`, d.AlertID, d.Admin).
		Scan(&a.OrganizationID, &a.NotificationID, &a.Threshold, &a.TokensUsed, &a.TokenLimit,
			&a.PeriodStart, &a.PeriodEnd, &a.CreatedAt, &a.OrganizationLanguage, &a.Admin)
	return orNone(&a, err)
}

func orNone(a *ToldAlert, err error) (*ToldAlert, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return a, err
}

// A Recipient is whom an e-mail goes to, and by what.
type Recipient struct {
	Email            string // empty: none
	OrganizationName string
	Server           *MailServer   // the organization's own; nil: none
	Template         *MailTemplate // the organization's own; nil: none
}

// MailServer is the default row of the host's organization_email_services. What
// is NULL there is zero.
type MailServer struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	From     string `json:"from"`
	Username string `json:"username"`
	Password string `json:"password"`
	STARTTLS *bool  `json:"starttls"`
}

// MailTemplate is the organization's row of organization_email_templates.
type MailTemplate struct {
	Subject string `json:"subject"`
	Body    string `json:"body"`
	HTML    bool   `json:"html"`
}

// Recipient returns whom the e-mail of an alert goes to, nil where the user is
// gone. It answers only while a job delivers it.
func (q *Queue) Recipient(ctx context.Context, d Delivery) (*Recipient, error) {
	var r Recipient
	var email, organization *string
	err := q.store.pool.QueryRow(ctx, `SELECT email, organization_name, server, template FROM tokenalert.recipient($1, $2)`, d.AlertID, d.Admin).
		Scan(&email, &organization, &r.Server, &r.Template)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up the recipient: %w", Discreet(err))
	}
	if email != nil {
		r.Email = *email
	}
	if organization != nil {
		r.OrganizationName = *organization
	}
	return &r, nil
}

// Emailed notes on the alert's row that its user was told by e-mail too.
func (q *Queue) Emailed(ctx context.Context, alert uuid.UUID) error {
	if _, err := q.store.pool.Exec(ctx, `SELECT tokenalert.emailed($1)`, alert); err != nil {
		return fmt.Errorf("note the e-mail: %w", err)
	}
	return nil
}

// A Notification is a row of the host's notifications.
type Notification struct {
	ID, OrganizationID, UserID uuid.UUID
	Title, Message, Link       string
}

// CopyNotification writes a notification into the database that the host's page
// reads, unless it is there. Its created_at is the time of the copy, by that
// database's clock: a page that asks for what came since it looked last gets it.
func (s *Store) CopyNotification(ctx context.Context, n Notification) error {
	_, err := s.pool.Exec(ctx, `
		INSERT INTO notifications (id, organization_id, user_id, title, message, notification_type, link_url)
		VALUES ($1, $2, $3, $4, $5, 'token_limit_alert', $6) ON CONFLICT DO NOTHING`,
		n.ID, n.OrganizationID, n.UserID, n.Title, n.Message, n.Link)
	if err != nil {
		if SQLState(err) == codeReadOnly { // a standby: the next attempt begins with another host
			s.Reset()
		}
		return fmt.Errorf("copy the notification: %w", Discreet(err))
	}
	return nil
}

// How far a delivery has come.
const (
	DeliveryWaiting   = "waiting" // for a worker that delivers by its channel
	DeliveryRunning   = "running"
	DeliveryRetrying  = "retrying" // after a failure, at NextAt
	DeliveryDelivered = "delivered"
	DeliveryFailed    = "failed" // for good
)

// DeliveryStates are all of them.
func DeliveryStates() []string {
	return []string{DeliveryWaiting, DeliveryRunning, DeliveryRetrying, DeliveryDelivered, DeliveryFailed}
}

// A DeliveryStatus is how far one delivery has come.
type DeliveryStatus struct {
	ID         int64      `json:"id"`    // of River's job
	AlertID    *uuid.UUID `json:"alert"` // nil: somebody else wrote the job
	Channel    string     `json:"channel"`
	State      string     `json:"state"`
	UserID     *uuid.UUID `json:"user"`         // whose alert it is; nil: a budget's, or it is gone
	OfBudget   *uuid.UUID `json:"organization"` // whose budget's alert it is; nil: a user's, or it is gone
	Admin      *uuid.UUID `json:"admin"`        // who is told of it; nil: the user, or of a budget a webhook
	Threshold  *int32     `json:"threshold"`    // percent
	Attempts   int        `json:"attempts"`
	CreatedAt  time.Time  `json:"created_at"`
	NextAt     *time.Time `json:"next_at"`     // of the next attempt, where there will be one
	FinishedAt *time.Time `json:"finished_at"` // delivered or failed
	Error      string     `json:"error"`       // of the last attempt that failed
}

// DeliveryFilter chooses deliveries; what is empty chooses all.
type DeliveryFilter struct {
	State, Channel string
	User           *uuid.UUID
	OfBudget       *uuid.UUID // of this organization
	Limit          int        // 0: all
}

// deliveryState is how we call River's states (rivertype.JobState).
const deliveryState = `CASE j.state::text WHEN 'completed' THEN 'delivered' WHEN 'cancelled' THEN 'failed' WHEN 'discarded' THEN 'failed'
	WHEN 'running' THEN 'running' WHEN 'retryable' THEN 'retrying' ELSE CASE WHEN j.attempt > 0 THEN 'retrying' ELSE 'waiting' END END`

// argument is an id among a job's arguments, and NULL where that is none: whoever
// may write jobs may write anything.
func argument(name string) string {
	return `CASE WHEN j.args ->> '` + name + `' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN (j.args ->> '` + name + `')::uuid END`
}

// Deliveries lists deliveries, the newest first, as long as River keeps them.
func (s *Store) Deliveries(ctx context.Context, f DeliveryFilter) ([]DeliveryStatus, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT j.id, j.alert, j.queue, `+deliveryState+`, a.user_id, b.organization_id, `+argument("admin")+`,
		       coalesce(a.alert_threshold, b.alert_threshold), j.attempt, j.created_at,
		       CASE WHEN j.finalized_at IS NULL AND j.state <> 'running' THEN j.scheduled_at END, j.finalized_at,
		       coalesce(`+lastError+`, '')
		FROM (SELECT j.*, `+argument("alert_id")+` AS alert FROM tokenalert.river_job j WHERE j.kind = 'delivery') j
		LEFT JOIN token_limit_alerts a ON a.id = j.alert LEFT JOIN tokenalert.budget_alerts b ON b.id = j.alert
		WHERE ($1 = '' OR `+deliveryState+` = $1) AND ($2 = '' OR j.queue = $2)
		  AND ($3::uuid IS NULL OR a.user_id = $3) AND ($5::uuid IS NULL OR b.organization_id = $5)
		ORDER BY j.id DESC LIMIT nullif($4::bigint, 0)`, f.State, f.Channel, f.User, f.Limit, f.OfBudget)
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeliveryStatus])
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return list, nil
}

// RetryDelivery has a delivery tried again at once, and for a day from now where
// it fails again. It reports whether there is such a one that does not run now
// and was not delivered.
func (q *Queue) RetryDelivery(ctx context.Context, id int64) (bool, error) {
	retried := false
	err := pgx.BeginFunc(ctx, q.store.pool, func(tx pgx.Tx) error {
		// Whoever delivers is woken, as in insertDeliveries.
		tag, err := tx.Exec(ctx, `WITH retried AS (
				UPDATE tokenalert.river_job SET metadata = metadata || jsonb_build_object('retried_at', now())
				WHERE id = $1 AND kind = 'delivery' AND state NOT IN ('running', 'completed') RETURNING queue
			)
			SELECT CASE WHEN pg_notification_queue_usage() < 0.5 THEN pg_notify('tokenalert.river_insert', json_build_object('queue', queue)::text) END FROM retried`, id)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		retried = true
		_, err = q.JobRetryTx(ctx, tx, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("retry delivery %d: %w", id, err)
	}
	return retried, nil
}

// A Backlog is what waits to be delivered by a channel.
type Backlog struct {
	Channel string
	Waiting int64
	Oldest  time.Time // since when the oldest of them is to be delivered
}

// Backlogs returns what waits, by channel; ErrInRecovery where the server has
// become a standby, whose sessions are then given up.
func (q *Queue) Backlogs(ctx context.Context) ([]Backlog, error) {
	var recovery bool
	if err := q.store.pool.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovery); err != nil {
		return nil, fmt.Errorf("look at what waits to be delivered: %w", err)
	}
	if recovery {
		q.store.Reset()
		return nil, ErrInRecovery
	}
	rows, err := q.store.pool.Query(ctx, `
		SELECT queue, count(*), min(coalesce((metadata ->> 'retried_at')::timestamptz, created_at)) FROM tokenalert.river_job
		WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND kind = 'delivery' GROUP BY queue`)
	if err != nil {
		return nil, fmt.Errorf("look at what waits to be delivered: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Backlog])
}
