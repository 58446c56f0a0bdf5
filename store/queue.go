package store

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// ours is the schema of everything that we own.
const ours = "tokenalert"

// queuePoolSize bounds the connections of a replica that delivers. River keeps
// one of them listening.
const queuePoolSize = 4

// Delivery are the arguments of a River job: an alert on its way by a channel,
// which is also the name of its queue.
type Delivery struct {
	AlertID uuid.UUID  `json:"alert_id"`
	Channel string     `json:"channel"`
	Admin   *uuid.UUID `json:"admin,omitempty"` // who is told of it; nil: the user whose alert it is
	// TimeZone is whose dates the notification names, and so all that is delivered,
	// whatever a policy says by then; nil: that of the settings.
	TimeZone *string `json:"time_zone,omitempty"`
}

// The channels.
const (
	ChannelNotification = "notification" // a copy, in another database
	ChannelEmail        = "email"
	ChannelWebhook      = "webhook"
)

// Kind is the job's kind.
func (Delivery) Kind() string { return "delivery" }

// DeliveryAttempts is more than a day of retries holds, which is what bounds
// them. It is a smallint.
const DeliveryAttempts = 1_000

// insertDeliveries writes a job for each alert of tick $3, taken at $6, that was
// inserted and is told (see ofThisTick), and wakes those that deliver, as River's own client does
// (JobInsertFastMany and PGNotifyMany of riverpgxv5), in one statement of the
// tick. A full notification queue would fail the tick's commit; then they are
// found by the next look.
var insertDeliveries, insertBudgetDeliveries = insertDeliveriesOf("token_limit_alerts"), insertDeliveriesOf("tokenalert.budget_alerts")

func insertDeliveriesOf(alerts string) string {
	return `WITH
jobs AS (
	INSERT INTO tokenalert.river_job (args, kind, max_attempts, queue)
	SELECT jsonb_strip_nulls(jsonb_build_object('alert_id', a.id, 'channel', w.channel, 'admin', w.admin, 'time_zone', w.time_zone)), 'delivery', $4, w.channel
	FROM (SELECT * FROM unnest($1::uuid[], $2::text[], $5::uuid[], $7::text[]) AS w (id, channel, admin, time_zone) OFFSET 0) w
	JOIN ` + alerts + ` a ON a.id = w.id AND ` + ofThisTick("$3", "$6") + ` AND a.alert_sent
	RETURNING queue
)
SELECT pg_notify('tokenalert.river_insert', json_build_object('queue', queue)::text)
FROM (SELECT DISTINCT queue FROM jobs) woken WHERE pg_notification_queue_usage() < 0.5`
}

func queueDeliveries(batch *pgx.Batch, tick *TickResult, decisions []Decision) {
	ofUsers, ofBudgets := apart(decisions)
	queueDeliveriesBy(insertDeliveries, batch, tick, ofUsers)
	queueDeliveriesBy(insertBudgetDeliveries, batch, tick, ofBudgets)
}

func queueDeliveriesBy(statement string, batch *pgx.Batch, tick *TickResult, decisions []Decision) {
	var alerts uuids
	var channels []string
	var admins []*uuid.UUID
	var zones []*string
	for _, d := range decisions {
		for _, a := range d.Alerts {
			for _, channel := range a.Channels {
				alerts, channels, admins, zones = append(alerts, a.ID), append(channels, channel), append(admins, nil), append(zones, d.TimeZone)
			}
			for _, n := range a.Admins {
				for _, channel := range n.Channels {
					alerts, channels, admins, zones = append(alerts, a.ID), append(channels, channel), append(admins, &n.UserID), append(zones, d.TimeZone)
				}
			}
		}
	}
	if len(alerts) > 0 {
		batch.Queue(statement, alerts, channels, tick.ID, DeliveryAttempts, admins, tick.Now, zones)
	}
}

// Queue is River's client on a pool of its own, and what its jobs read and write.
type Queue struct {
	*river.Client[pgx.Tx]
	store *Store
}

// OpenQueue prepares to work on deliveries over direct connections to url:
// River listens. It completes config by the schema, and does not connect.
func OpenQueue(url string, config river.Config) (*Queue, error) {
	s, err := open(appDeliver, url, "", false, queuePoolSize)
	if err != nil {
		return nil, err
	}
	q, err := s.queue(config)
	if err != nil {
		s.Close()
	}
	return q, err
}

// Queue is the queue on this store's connections, for a command that works on
// nothing. It is closed with the store.
func (s *Store) Queue() (*Queue, error) { return s.queue(river.Config{}) }

func (s *Store) queue(config river.Config) (*Queue, error) {
	config.Schema = ours
	client, err := river.NewClient(riverpgxv5.New(s.pool), &config)
	if err != nil {
		return nil, fmt.Errorf("queue of deliveries: %w", err)
	}
	return &Queue{Client: client, store: s}, nil
}

// Reread is Store.Reread.
func (q *Queue) Reread(read func() (url, directURL string, err error)) { q.store.Reread(read) }

// Ping asks the queue's database for an answer.
func (q *Queue) Ping(ctx context.Context) error { return q.store.Ping(ctx) }

// Close closes the pool.
func (q *Queue) Close() { q.store.Close() }

// migrateQueue brings River's tables to what this binary's River wants.
func (m *Migrator) migrateQueue(ctx context.Context) error {
	_, to, err := m.store.current()
	if err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return fmt.Errorf("queue of deliveries: %w", err)
	}
	config.ConnConfig = to.config.Copy()
	config.ConnConfig.RuntimeParams["application_name"] = appMigrate
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("queue of deliveries: %w", err)
	}
	defer pool.Close()
	river, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: ours, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("queue of deliveries: %w", err)
	}
	result, err := river.Migrate(ctx, rivermigrate.DirectionUp, nil)
	if err != nil {
		return fmt.Errorf("queue of deliveries: %w", err)
	}
	n := len(result.Versions)
	if n == 0 {
		return nil
	}
	if result.Versions[0].Version == 1 {
		// A worker that delivered before a down may still end jobs by their ids, and
		// would end those that have them now: ids of another time are others.
		if _, err := pool.Exec(ctx, `SELECT setval('tokenalert.river_job_id_seq', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)`); err != nil {
			return fmt.Errorf("queue of deliveries: %w", err)
		}
	}
	m.say(fmt.Sprintf("up river %d: the queue of deliveries", result.Versions[n-1].Version))
	return nil
}
