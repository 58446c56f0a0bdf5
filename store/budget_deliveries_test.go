package store_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// adminIn makes an admin of an organization.
func (s *site) adminIn(organization uuid.UUID) uuid.UUID {
	s.t.Helper()
	id, err := host.NewUser(s.t.Context(), s.owner, host.User{Organization: organization})
	require.NoError(s.t, err)
	s.exec("UPDATE users SET role = 'admin' WHERE id = $1", id)
	return id
}

// budgetAlert writes an alert of the organization's budget as a tick does, and a
// job for each of some arguments, and returns its id.
func (s *site) budgetAlert(jobs ...store.Delivery) uuid.UUID {
	s.t.Helper()
	id := uuid.New()
	s.exec(`INSERT INTO tokenalert.budget_alerts (id, organization_id, alert_threshold, alert_sent, created_at, period_start, period_end,
		token_limit, tokens_used, percent_used, admins_told, notification_id, tick_id)
		VALUES ($1, $2, 80, true, now(), now() - interval '10 days', now() + interval '20 days', 1000, 850, 85, 1, gen_random_uuid(), 1)`, id, s.org)
	for _, job := range jobs {
		job.AlertID = id
		s.exec(`INSERT INTO tokenalert.river_job (args, kind, max_attempts, queue) VALUES ($1, 'delivery', 1000, $2)`, job, job.Channel)
	}
	return id
}

// Of a budget's alert an admin is told, or a webhook, and nobody else.
func TestAlertOfABudget(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	other, err := host.NewOrganization(t.Context(), s.owner, "Other")
	require.NoError(t, err)
	admin, stranger, member := s.adminIn(s.org), s.adminIn(other), s.user(0)
	s.exec(`INSERT INTO tokenalert.policies (organization_id, budget, budget_time_zone, time_zone, language, added, version, changed_at)
		VALUES ($1, 1000, 'America/Santiago', 'Asia/Tokyo', 'pt', '{}', 0, now())`, s.org)
	id := s.budgetAlert()
	queue := s.queue(pgtest.Runtime)
	t.Cleanup(queue.Close)
	alert := func(channel string, admin *uuid.UUID) *store.ToldAlert {
		t.Helper()
		a, err := queue.Alert(t.Context(), store.Delivery{AlertID: id, Channel: channel, Admin: admin})
		require.NoError(t, err)
		return a
	}

	a := alert(store.ChannelEmail, &admin)
	require.NotNil(t, a)
	assert.True(t, a.Budget)
	assert.Equal(t, uuid.Nil, a.UserID)
	assert.Equal(t, s.org, a.OrganizationID)
	assert.Equal(t, admin, a.Admin.UserID)
	assert.Equal(t, []int64{80, 850, 1000}, []int64{int64(a.Threshold), a.TokensUsed, a.TokenLimit})
	assert.Equal(t, new("pt"), a.OrganizationLanguage)
	require.NotNil(t, alert(store.ChannelWebhook, nil))
	assert.Nil(t, alert(store.ChannelEmail, nil), "it is of no user")
	assert.Nil(t, alert(store.ChannelNotification, nil), "it is of no user")
	assert.Nil(t, alert(store.ChannelEmail, &stranger), "an admin of another organization")
	assert.Nil(t, alert(store.ChannelEmail, &member))

	s.exec("UPDATE tokenalert.policies SET budget = NULL")
	assert.NotNil(t, alert(store.ChannelWebhook, nil), "it has been told of")
	s.exec("UPDATE users SET role = 'student'")
	assert.Nil(t, alert(store.ChannelEmail, &admin), "no admin any more")
	s.exec("UPDATE tokenalert.budget_alerts SET alert_sent = false")
	assert.Nil(t, alert(store.ChannelWebhook, nil))
}

// The role of the worker learns an admin's address while it delivers to that one.
func TestRecipientOfABudget(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	other, err := host.NewOrganization(t.Context(), s.owner, "Other")
	require.NoError(t, err)
	admin, second, stranger, member := s.adminIn(s.org), s.adminIn(s.org), s.adminIn(other), s.user(0)
	address := ask[string](s, "SELECT email FROM users WHERE id = $1", admin)
	id := s.budgetAlert(
		store.Delivery{Channel: store.ChannelEmail, Admin: &admin},
		store.Delivery{Channel: store.ChannelNotification, Admin: &second},
		store.Delivery{Channel: store.ChannelEmail, Admin: &stranger},
		store.Delivery{Channel: store.ChannelEmail, Admin: &member},
		store.Delivery{Channel: store.ChannelEmail},
	)
	queue := s.queue(pgtest.Runtime)
	t.Cleanup(queue.Close)
	recipient := func(admin *uuid.UUID) *store.Recipient {
		t.Helper()
		r, err := queue.Recipient(t.Context(), store.Delivery{AlertID: id, Admin: admin})
		require.NoError(t, err)
		return r
	}

	assert.Nil(t, recipient(&admin), "it is not being delivered")
	s.exec("UPDATE tokenalert.river_job SET state = 'running', attempted_at = now()")
	assert.Equal(t, &store.Recipient{Email: address, OrganizationName: ask[string](s, "SELECT name FROM organizations WHERE id = $1", s.org)}, recipient(&admin))
	assert.Nil(t, recipient(&second), "what is being delivered to them is no e-mail")
	for what, id := range map[string]*uuid.UUID{"an admin of another organization": &stranger, "no admin": &member, "nobody": nil} {
		assert.Nil(t, recipient(id), what)
	}
	s.exec("UPDATE users SET role = 'student' WHERE id = $1", admin)
	assert.Nil(t, recipient(&admin), "no admin any more")
	s.exec("UPDATE users SET role = 'admin' WHERE id = $1", admin)
	s.exec("UPDATE tokenalert.river_job SET state = 'completed', finalized_at = now()")
	assert.Nil(t, recipient(&admin), "it has been delivered")
}

// What fails of budgets counts, and what ended because nobody is left to be told
// does not; whatever somebody else has written into the queue breaks nothing.
func TestDeliveriesOfBudgets(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	queued(s) // of a user
	admin := s.adminIn(s.org)
	id := s.budgetAlert(store.Delivery{Channel: store.ChannelEmail, Admin: &admin}, store.Delivery{Channel: store.ChannelWebhook})
	for _, args := range []string{`{}`, `[]`, `1`, `null`, `{"alert_id": "garbage", "admin": "x"}`, `{"alert_id": 7}`, `{"alert_id": null}`} {
		s.exec(`INSERT INTO tokenalert.river_job (args, kind, max_attempts, queue, state, finalized_at, errors)
			VALUES ($1::text::jsonb, 'delivery', 1, 'webhook', 'discarded', now(), ARRAY['{"error": "cannot unmarshal"}'::jsonb])`, args)
	}
	st := s.runtime()
	list := func(f store.DeliveryFilter) []store.DeliveryStatus {
		t.Helper()
		all, err := st.Deliveries(t.Context(), f)
		require.NoError(t, err)
		return all
	}
	all := list(store.DeliveryFilter{})
	require.Len(t, all, 10)
	for _, d := range all[:7] {
		assert.Equal(t, store.DeliveryStatus{ID: d.ID, Channel: "webhook", State: store.DeliveryFailed, CreatedAt: d.CreatedAt, FinishedAt: d.FinishedAt, Error: "cannot unmarshal"}, d)
	}
	hook, mail, users := all[7], all[8], all[9]
	for _, d := range []store.DeliveryStatus{hook, mail} {
		assert.Equal(t, &id, d.AlertID)
		assert.Equal(t, &s.org, d.OfBudget)
		assert.Nil(t, d.UserID)
		assert.Equal(t, new(int32(80)), d.Threshold)
	}
	assert.Nil(t, hook.Admin)
	assert.Equal(t, &admin, mail.Admin)
	assert.NotNil(t, users.UserID)
	assert.Nil(t, users.OfBudget)
	assert.Equal(t, []store.DeliveryStatus{hook, mail}, list(store.DeliveryFilter{OfBudget: &s.org}))
	assert.Equal(t, []store.DeliveryStatus{users}, list(store.DeliveryFilter{User: users.UserID}))
	assert.Empty(t, list(store.DeliveryFilter{OfBudget: new(uuid.New())}))

	failures := func() (int64, []string) {
		t.Helper()
		status, err := st.Status(t.Context(), 1)
		require.NoError(t, err)
		var says []string
		for _, f := range examined(t, s.diagnose(pgtest.Runtime), "deliveries").Findings {
			says = append(says, f.Says)
		}
		return status.Deliveries.Failed, says
	}
	failed, says := failures()
	assert.Zero(t, failed)
	assert.Empty(t, says)
	s.exec(`UPDATE tokenalert.river_job SET state = 'cancelled', finalized_at = now(), errors = ARRAY[jsonb_build_object('error', 'JobCancelError: refused')]
		WHERE id = $1 OR id = $2`, mail.ID, hook.ID)
	failed, says = failures()
	assert.EqualValues(t, 2, failed)
	assert.Equal(t, []string{
		"1 alert was given up in the last day and not delivered by email, the last one because: refused",
		"1 alert was given up in the last day and not delivered by webhook, the last one because: refused",
	}, says)
	s.exec("UPDATE tokenalert.river_job SET errors = ARRAY[jsonb_build_object('error', 'JobCancelError: ' || $2::text)] WHERE id = $1", mail.ID, store.ErrNobody.Error())
	failed, says = failures()
	assert.EqualValues(t, 1, failed)
	assert.Len(t, says, 1)
}
