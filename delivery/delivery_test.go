package delivery_test

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/delivery"
	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// The host's page reads the notifications of another database: there the copy
// is, once, under the id of the first and in its words, whatever policy has come
// since.
func TestIntoAnotherDatabase(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := pgtest.New(t, pgtest.Host(host.LMS)).Straight()
	page := other.ConnAs(t, pgtest.Owner)
	_, err := page.Exec(t.Context(), `GRANT INSERT (id, organization_id, user_id, title, message, notification_type, link_url) ON notifications TO `+pgtest.Runtime)
	require.NoError(t, err)
	url, _ := other.WorkerURLs()
	s.exec("INSERT INTO tokenalert.policies (organization_id, time_zone, added, version, changed_at) VALUES ($1, 'Pacific/Kiritimati', '{}', 0, now())", s.org)
	s.leads(delivery.Notification)
	user := s.crosses("Ana")
	s.eventually(func() bool { return s.states()["notification"] == "available" }, "nothing is to be delivered")
	s.exec("UPDATE tokenalert.policies SET time_zone = 'Pacific/Pago_Pago'") // a day earlier
	r := s.delivers(delivery.Channels{Notifications: always(url)})

	r.await(worker.EventDeliveryCompleted, 1)
	type row struct {
		ID, Org, User              uuid.UUID
		Title, Message, Type, Link string
		IsRead                     bool
	}
	const columns = `SELECT id, organization_id, user_id, title, message, notification_type, link_url, is_read FROM notifications`
	var here, there row
	require.NoError(t, s.owner.QueryRow(t.Context(), columns).Scan(&here.ID, &here.Org, &here.User, &here.Title, &here.Message, &here.Type, &here.Link, &here.IsRead))
	require.NoError(t, page.QueryRow(t.Context(), columns).Scan(&there.ID, &there.Org, &there.User, &there.Title, &there.Message, &there.Type, &there.Link, &there.IsRead))
	assert.Equal(t, here, there)
	assert.Equal(t, user, there.User)
	assert.Contains(t, there.Message, "Ana")

	// Delivered once more, it is there once.
	s.exec("UPDATE tokenalert.river_job SET state = 'available', finalized_at = NULL, scheduled_at = now()")
	r.await(worker.EventDeliveryCompleted, 2)
	var n int
	require.NoError(t, page.QueryRow(t.Context(), "SELECT count(*) FROM notifications").Scan(&n))
	assert.Equal(t, 1, n)
	assert.Equal(t, "notification", ask[string](s, "SELECT alert_type FROM token_limit_alerts WHERE alert_sent"))
}

func TestByWebhook(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	rec := s.receives(nil)
	r := s.delivers(rec.to())
	user := s.crosses("Ana")

	line := r.await(worker.EventDeliveryCompleted, 1)
	assert.Equal(t, "webhook", line.ContextMap()["channel"])
	hooks := rec.hooks()
	require.Len(t, hooks, 1)
	assert.Equal(t, ask[string](s, "SELECT id::text FROM token_limit_alerts"), hooks[0].id)
	assert.Equal(t, user.String(), hooks[0].data["user_id"])
	assert.InDelta(t, 85, hooks[0].data["percent_used"], 0)
	assert.NotContains(t, hooks[0].data["message"], "Ana", "a name in a webhook")
	s.eventually(func() bool { return s.states()["webhook"] == "completed" }, "the job does not end")
}

// What fails is tried again, with the same id.
func TestTriedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	var rec *receiver
	rec = s.receives(func(w http.ResponseWriter, _ *http.Request) {
		if len(rec.hooks()) < 3 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	r := s.delivers(rec.to())
	s.crosses("Ana")
	r.await(worker.EventDeliveryCompleted, 1)
	assert.Len(t, r.lines(worker.EventDeliveryRetried), 2)
	hooks := rec.hooks()
	require.Len(t, hooks, 3)
	assert.Equal(t, hooks[0], hooks[2])
}

// What is refused for good is not tried again, until somebody asks for it.
func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	var rec *receiver
	rec = s.receives(func(w http.ResponseWriter, _ *http.Request) {
		if len(rec.hooks()) < 2 {
			w.WriteHeader(http.StatusGone)
		}
	})
	r := s.delivers(rec.to())
	s.crosses("Ana")
	r.await(worker.EventDeliveryFailed, 1)
	s.eventually(func() bool { return s.states()["webhook"] == "cancelled" }, "the job does not end")
	assert.Empty(t, r.lines(worker.EventDeliveryRetried))

	queue := s.queue()
	id := ask[int64](s, "SELECT id FROM tokenalert.river_job")
	retried, err := queue.RetryDelivery(t.Context(), id)
	require.NoError(t, err)
	assert.True(t, retried)
	r.await(worker.EventDeliveryCompleted, 1)
	s.eventually(func() bool { return s.states()["webhook"] == "completed" }, "the job does not end")
	retried, err = queue.RetryDelivery(t.Context(), id)
	require.NoError(t, err)
	assert.False(t, retried, "one that was delivered")
}

// After a day it is given up; who has it tried again, has it tried for a day.
func TestForADay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	rec := s.receives(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	r := s.delivers(rec.to())
	s.crosses("Ana")
	r.await(worker.EventDeliveryRetried, 2)
	s.exec(`UPDATE tokenalert.river_job SET created_at = created_at - interval '24 hours',
		errors = ARRAY(SELECT e || jsonb_build_object('at', (e ->> 'at')::timestamptz - interval '24 hours') FROM unnest(errors) AS e)`)
	r.await(worker.EventDeliveryFailed, 1)
	s.eventually(func() bool { return s.states()["webhook"] == "cancelled" }, "the job does not end")

	before := len(r.lines(worker.EventDeliveryRetried))
	_, err := s.queue().RetryDelivery(t.Context(), ask[int64](s, "SELECT id FROM tokenalert.river_job"))
	require.NoError(t, err)
	r.await(worker.EventDeliveryRetried, before+2)
}

// One that nobody has taken for days, as while its channel was not set up, has its
// day as well.
func TestTheDayBeginsWithTheFirstFailure(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	s.crosses("Ana")
	s.eventually(func() bool { return s.states()["webhook"] == "available" }, "no job")
	s.exec("UPDATE tokenalert.river_job SET created_at = created_at - interval '3 days'")
	rec := s.receives(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	r := s.delivers(rec.to())
	r.await(worker.EventDeliveryRetried, 3)
	assert.Empty(t, r.lines(worker.EventDeliveryFailed))
}

// A user who is deleted before the delivery is no failure.
func TestGone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	user := s.crosses("Ana")
	s.eventually(func() bool { return s.states()["webhook"] == "available" }, "no job")
	s.exec("DELETE FROM users WHERE id = $1", user)
	rec := s.receives(nil)
	r := s.delivers(rec.to())
	s.eventually(func() bool { return s.states()["webhook"] == "cancelled" }, "the job does not end")
	assert.Empty(t, rec.hooks())
	assert.Empty(t, r.lines(worker.EventDeliveryFailed))
}

// What one replica leaves, another delivers.
func TestAnotherReplica(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	var rec *receiver
	rec = s.receives(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		if len(rec.hooks()) == 1 {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	defer close(release)
	first := s.delivers(rec.to())
	s.crosses("Ana")
	<-arrived
	first.stop() // in the middle of it
	assert.Empty(t, first.lines(worker.EventDeliveryFailed))
	second := s.delivers(rec.to())
	second.await(worker.EventDeliveryCompleted, 1)
	hooks := rec.hooks()
	assert.Equal(t, hooks[0].id, hooks[1].id)
}

// A channel that hangs holds up no other.
func TestChannelsDoNotWaitForOneAnother(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	release := make(chan struct{})
	defer close(release)
	rec := s.receives(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	url := s.db.OwnerURL() // its own notifications: the row is there already
	s.leads(delivery.Webhook, delivery.Notification)
	channels := rec.to()
	channels.Notifications = always(url)
	r := s.delivers(channels)
	for range 10 {
		s.crosses("Ana")
	}
	r.await(worker.EventDeliveryCompleted, 10)
	for _, line := range r.lines(worker.EventDeliveryCompleted) {
		assert.Equal(t, "notification", line.ContextMap()["channel"])
	}
}
