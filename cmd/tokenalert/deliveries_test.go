package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/delivery"
	"tokenalert/internal/host"
	"tokenalert/internal/mailserver"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// listed runs deliveries list for programs.
func (p *platform) listed(args ...string) []store.DeliveryStatus {
	p.t.Helper()
	status, stdout, stderr := typed(p.t, databaseEnvironment(p.db.WorkerURLs()), append([]string{"deliveries", "list", "-o", "json"}, args...)...)
	require.Equal(p.t, 0, status, stderr)
	var list []store.DeliveryStatus
	require.NoError(p.t, json.Unmarshal([]byte(stdout), &list))
	return list
}

// TestDeliveries follows two alerts by two channels, from the tick to what a
// person types about them.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	refused := mailserver.Refuse(550, [3]int{5, 1, 1}, "no such user")
	d := newDestination(t, mailserver.Conduct{Rcpt: func(to string) error {
		if strings.HasPrefix(to, "bob") {
			return refused(to)
		}
		return nil
	}})
	person := func(name string) uuid.UUID {
		id, err := host.NewUser(t.Context(), p.owner, host.User{Organization: p.org, FullName: name, Email: name + "@example.org", Limit: new(100)})
		require.NoError(t, err)
		return id
	}
	zoe, bob := person("zoe"), person("bob")
	assert.Empty(t, p.listed())
	status, stdout, _ := typed(t, databaseEnvironment(p.db.WorkerURLs()), "deliveries", "list")
	assert.Equal(t, 0, status)
	assert.Equal(t, "no such deliveries\n", stdout)

	w := p.leads(append(d.byEmail(), d.byWebhook()...)...)
	assert.Equal(t, "email,webhook", w.await(worker.EventDeliveryStarted, 1)["channels"])
	p.use(zoe, 85)
	w.await(worker.EventDeliveryCompleted, 2)
	d.answers.Store(http.StatusGone)
	p.use(bob, 95)
	w.await(worker.EventDeliveryFailed, 2)
	p.eventually("SELECT count(*) = 4 FROM tokenalert.river_job WHERE finalized_at IS NOT NULL", "the jobs do not end")
	assert.Equal(t, "zoe@example.org", d.mail.Next(t).To)
	assert.Equal(t, &zoe, d.events()[0].Data.UserID)

	all := p.listed()
	require.Len(t, all, 4)
	assert.True(t, slices.IsSortedFunc(all, func(a, b store.DeliveryStatus) int { return int(b.ID - a.ID) }), "the newest first")
	failed := map[string]store.DeliveryStatus{}
	for _, s := range all {
		require.NotNil(t, s.UserID)
		assert.Contains(t, []string{delivery.Email, delivery.Webhook}, s.Channel)
		assert.NotNil(t, s.FinishedAt)
		assert.Nil(t, s.NextAt)
		assert.Equal(t, 1, s.Attempts)
		if *s.UserID == zoe {
			assert.Equal(t, store.DeliveryDelivered, s.State)
			assert.EqualValues(t, 80, *s.Threshold)
			assert.Empty(t, s.Error)
			continue
		}
		assert.Equal(t, bob, *s.UserID)
		assert.Equal(t, store.DeliveryFailed, s.State)
		assert.EqualValues(t, 90, *s.Threshold)
		failed[s.Channel] = s
	}
	assert.Contains(t, failed[delivery.Email].Error, "smtp: RCPT: 550 5.1.1 no such user")
	assert.Contains(t, failed[delivery.Webhook].Error, "it answered 410")

	// Each filter, and two of them together.
	for args, want := range map[string]int{
		"--state failed": 2, "--state delivered": 2, "--state waiting": 0, "--channel email": 2, "--channel notification": 0,
		"--user " + zoe.String(): 2, "--user " + uuid.NewString(): 0, "--limit 3": 3, "--limit 0": 4, "--state failed --channel webhook": 1,
	} {
		assert.Len(t, p.listed(strings.Fields(args)...), want, args)
	}
	status, stdout, stderr := typed(t, databaseEnvironment(p.db.WorkerURLs()), "deliveries", "list", "--state", "failed")
	require.Equal(t, 0, status, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, 3, stdout)
	assert.Regexp(t, `^ID +CHANNEL +STATE +ATTEMPTS +ABOUT +ADMIN +THRESHOLD +ALERT +SINCE +NEXT +LAST ERROR$`, lines[0])
	for _, line := range lines[1:] {
		assert.Regexp(t, `^\d+ +(email|webhook) +failed +1 +`+bob.String()+` +90 % +[0-9a-f-]{36} +\d+\.\d s +\S.*$`, line)
	}

	// Again, by id and by channel: what is tried now is delivered.
	retry := func(status int, args ...string) string {
		t.Helper()
		exit, stdout, stderr := typed(t, databaseEnvironment(p.db.WorkerURLs()), append([]string{"deliveries", "retry"}, args...)...)
		require.Equal(t, status, exit, stderr)
		return stdout
	}
	id := strconv.FormatInt(failed[delivery.Webhook].ID, 10)
	d.answers.Store(http.StatusNoContent)
	assert.Equal(t, "1 delivery tried again\n", retry(0, id))
	w.await(worker.EventDeliveryCompleted, 3)
	p.eventually("SELECT state = 'completed' FROM tokenalert.river_job WHERE id = $1", "the job does not end", failed[delivery.Webhook].ID)
	assert.Equal(t, &bob, d.events()[len(d.events())-1].Data.UserID)
	assert.Equal(t, id+" is left as it is: there is none, or it is running, or was delivered\n0 deliveries tried again\n", retry(1, id))
	assert.Equal(t, "999999 is left as it is: there is none, or it is running, or was delivered\n0 deliveries tried again\n", retry(1, "999999"))
	assert.Equal(t, "0 deliveries tried again\n", retry(0, "--failed", "--channel", "webhook"))
	p.exec("UPDATE users SET email = 'zoe.again@example.org' WHERE id = $1", bob)
	assert.Equal(t, "1 delivery tried again\n", retry(0, "--failed"))
	assert.Equal(t, "zoe.again@example.org", d.mail.Next(t).To)
	w.await(worker.EventDeliveryCompleted, 4)
	p.eventually("SELECT count(*) = 4 FROM tokenalert.river_job WHERE state = 'completed'", "the job does not end")
	assert.Empty(t, p.listed("--state", "failed"))

	w.terminate()
	said := w.stdout.String() + stdout + strings.Join(askColumn(p, "SELECT j::text FROM tokenalert.river_job j"), "\n")
	for _, private := range []string{secret, hookSecret, "zoe", "bob", "robot", "example.org"} {
		assert.NotContains(t, said, private)
	}
}

// askColumn is the answer to a query for one column.
func askColumn(p *platform, sql string) []string {
	p.t.Helper()
	return ask[[]string](p, "SELECT array_agg(x) FROM ("+sql+") AS t (x)")
}

// A user who is gone, and one who waits for a worker that delivers by a channel.
func TestDeliveriesOfNobody(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	d := newDestination(t, mailserver.Conduct{})
	d.answers.Store(http.StatusServiceUnavailable)
	user := p.user(100)
	w := p.leads(d.byWebhook()...)
	p.use(user, 85)
	w.await(worker.EventDeliveryRetried, 1)
	p.eventually("SELECT count(*) = 1 FROM tokenalert.river_job WHERE state = 'retryable'", "it is not tried again")
	status, stdout, stderr := typed(t, databaseEnvironment(p.db.WorkerURLs()), "deliveries", "list", "--state", "retrying")
	require.Equal(t, 0, status, stderr)
	assert.Regexp(t, `\n\d+ +webhook +retrying +1 +`+user.String()+` +80 % .* in \d+\.\d s +webhook to 127\.0\.0\.1: it answered 503\n$`, stdout)
	p.exec("DELETE FROM users WHERE id = $1", user)
	_, stdout, _ = typed(t, databaseEnvironment(p.db.WorkerURLs()), "deliveries", "list")
	assert.Regexp(t, `\n\d+ +webhook +retrying +1 +\(gone\) `, stdout)
	assert.Nil(t, p.listed()[0].UserID)
	w.terminate()
}

// Of two deliveries of one alert, one may be to an admin; of a budget's, all are or
// are webhooks. What somebody else wrote into the queue has no alert.
func TestPrintDeliveries(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)
	user, admin, alert := uuid.New(), uuid.New(), uuid.New()
	var b strings.Builder
	require.NoError(t, printDeliveries(&b, []store.DeliveryStatus{
		{ID: 8, AlertID: &alert, Channel: delivery.Email, State: store.DeliveryRetrying, UserID: &user, Admin: &admin, Threshold: new(int32(90)), Attempts: 2, CreatedAt: now.Add(-30 * time.Second), NextAt: new(now.Add(20 * time.Second)), Error: "smtp: \x1b[2J"},
		{ID: 7, AlertID: &alert, Channel: delivery.Email, State: store.DeliveryWaiting, UserID: &user, Threshold: new(int32(90)), CreatedAt: now.Add(-3 * time.Minute), NextAt: new(now)},
		{ID: 6, AlertID: &alert, Channel: delivery.Email, State: store.DeliveryDelivered, OfBudget: &user, Admin: &admin, Threshold: new(int32(100)), Attempts: 1, CreatedAt: now.Add(-3 * time.Minute)},
		{ID: 5, Channel: "x", State: store.DeliveryFailed, CreatedAt: now.Add(-3 * time.Minute)},
	}, now))
	lines := strings.Split(b.String(), "\n")
	assert.Equal(t, []string{"8", "email", "retrying", "2", user.String(), admin.String(), "90", "%", alert.String(), "30", "s", "in", "20", "s", "smtp:", "[2J"}, strings.Fields(lines[1]))
	assert.Equal(t, []string{"7", "email", "waiting", "0", user.String(), "90", "%", alert.String(), "3", "min"}, strings.Fields(lines[2]))
	assert.Equal(t, []string{"6", "email", "delivered", "1", "budget", "of", user.String(), admin.String(), "100", "%", alert.String(), "3", "min"}, strings.Fields(lines[3]))
	assert.Equal(t, []string{"5", "x", "failed", "0", "(gone)", "(none)", "3", "min"}, strings.Fields(lines[4]))
}

// Who may not write to the queue is told so.
func TestDeliveriesRetryAsAnother(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	status, _, stderr := typed(t, []string{"DATABASE_URL=" + p.db.URLAs(pgtest.Writer)}, "deliveries", "retry", "1")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "role host_writer lacks a privilege; run `tokenalert migrate grant host_writer`")
}
