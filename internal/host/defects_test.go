package host_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// The fixture is worth something only while it has the host's defects.

func TestTriggerFailsTheInsertWithoutNotifications(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, pgtest.Host(host.CMSWithTrigger)).ConnAs(t, pgtest.Owner)
	user, org := newUser(t, conn, host.User{Limit: new(100)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 79))

	var pgErr *pgconn.PgError
	require.ErrorAs(t, host.LogUsage(t.Context(), conn, user, org, 1), &pgErr)
	assert.Equal(t, "42P01", pgErr.Code)
	assert.Contains(t, pgErr.Message, `"notifications"`)
	assert.Equal(t, 79, scan[int](t, conn, "SELECT sum(tokens_used) FROM ai_usage_logs"))
}

// alerting is a database in which the host's alerts work, as far as they do.
func alerting(t *testing.T, u host.User) (*pgx.Conn, uuid.UUID, uuid.UUID) {
	t.Helper()
	conn := pgtest.New(t, alertingHost).ConnAs(t, pgtest.Owner)
	user, org := newUser(t, conn, u)
	return conn, user, org
}

var alertingHost = pgtest.Template{
	Name: "host_alerting",
	Build: func(ctx context.Context, url string) error {
		if err := pgtest.Host(host.CMSWithTrigger).Build(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `CREATE TABLE notifications (organization_id uuid, user_id uuid,
			title varchar(255), message text, notification_type varchar(50), link_url varchar(255))`)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	},
}

func TestTriggerRounds(t *testing.T) {
	t.Parallel()
	conn, user, org := alerting(t, host.User{Limit: new(1000)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 794))
	assert.Zero(t, scan[int](t, conn, "SELECT count(*) FROM token_limit_alerts"))
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 1))
	assert.Equal(t, 80, scan[int](t, conn, "SELECT alert_threshold FROM token_limit_alerts"))
}

func TestTriggerRecordsOnlyTheHighest(t *testing.T) {
	t.Parallel()
	conn, user, org := alerting(t, host.User{Limit: new(100)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 70))
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 35))
	assert.Equal(t, 100, scan[int](t, conn, "SELECT alert_threshold FROM token_limit_alerts"))
}

func TestTriggerSaysTheWrongThings(t *testing.T) {
	t.Parallel()
	conn, user, org := alerting(t, host.User{Limit: new(100), FullName: "Zoë"})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 88))
	message := scan[string](t, conn, "SELECT message FROM notifications")
	assert.Contains(t, message, "Zoë")
	assert.Contains(t, message, "(80%)", "the threshold, where usage is 88 %")

	exec(t, conn, "TRUNCATE notifications")
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 32))
	assert.Contains(t, scan[string](t, conn, "SELECT message FROM notifications"), "estará disponible")
}

func TestTriggerForgetsLastMonth(t *testing.T) {
	t.Parallel()
	conn, user, org := alerting(t, host.User{Limit: new(100)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 80))
	exec(t, conn, "UPDATE token_limit_alerts SET sent_at = now() - interval '40 days'")
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 1))
	assert.Equal(t, 1, scan[int](t, conn, "SELECT count(*) FROM token_limit_alerts"))
	assert.True(t, scan[bool](t, conn, "SELECT sent_at = (SELECT max(created_at) FROM ai_usage_logs) FROM token_limit_alerts"))
}

// Reset day 32, which nothing forbids, moves the start 31 days ahead and so,
// whatever today is, to the first of a month to come: nobody is ever alerted.
func TestTriggerStartsThePeriodOnTheWrongDay(t *testing.T) {
	t.Parallel()
	conn, user, org := alerting(t, host.User{Limit: new(100), ResetDay: new(32)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 500))
	assert.Zero(t, scan[int](t, conn, "SELECT count(*) FROM token_limit_alerts"))
}

func TestAlertsKeepAUserFromBeingDeleted(t *testing.T) {
	t.Parallel()
	conn, user, org := alerting(t, host.User{Limit: new(100)})
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 80))
	_, err := conn.Exec(t.Context(), "DELETE FROM users WHERE id = $1", user)
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	assert.Equal(t, "23503", pgErr.Code)
}
