package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// delivering has the next ticks deliver by channels what they tell.
func (c *counter) delivering(channels ...string) { c.channels = channels }

// A tick's statement writes what River's own client would.
func TestADeliveryIsAJobOfRiver(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email")
	c.use(c.user(100), 90)
	c.tick()
	var theirs store.Delivery
	require.NoError(t, c.owner.QueryRow(t.Context(), "SELECT args FROM tokenalert.river_job").Scan(&theirs))
	assert.Equal(t, ask[string](c.site, "SELECT id::text FROM token_limit_alerts WHERE alert_sent"), theirs.AlertID.String())
	assert.Equal(t, "email", theirs.Channel)

	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{Schema: "tokenalert"})
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(t.Context(), c.owner, func(tx pgx.Tx) error {
		_, err := client.InsertTx(t.Context(), tx, theirs, &river.InsertOpts{Queue: "email", MaxAttempts: store.DeliveryAttempts})
		return err
	}))
	rows := c.list(`SELECT (to_jsonb(j) - 'id' - 'created_at' - 'scheduled_at')::text FROM tokenalert.river_job j ORDER BY id`)
	require.Len(t, rows, 2)
	assert.Equal(t, rows[1], rows[0])
	assert.Equal(t, 2, ask[int](c.site, "SELECT count(*) FROM tokenalert.river_job WHERE scheduled_at = created_at AND created_at > now() - interval '1 minute'"))
}

// One job a channel for who is told, none for who is not: a lower threshold, a
// crossing that was told before.
func TestOnlyWhatIsToldIsDelivered(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email", "webhook")
	user := c.user(100)
	c.use(user, 90)
	c.tick()
	jobs := func() []string {
		return c.list("SELECT format('%s %s', queue, args ->> 'channel') FROM tokenalert.river_job ORDER BY id")
	}
	assert.Equal(t, []string{"email email", "webhook webhook"}, jobs())
	c.exec("UPDATE tokenalert.usage_periods SET marks = '{}'") // it would be told again
	c.use(user, 1)
	c.tick()
	assert.Len(t, jobs(), 2, "told before")
	assert.Equal(t, 1, ask[int](c.site, "SELECT count(*) FROM token_limit_alerts"))

	c.delivering()
	c.use(c.user(100), 90)
	c.tick()
	assert.Len(t, jobs(), 2, "no channel is set up")
}

// A tick that fails after its alerts were written leaves no job; and those of
// whose data a statement failed are not delivered with the others.
func TestWhatIsRolledBackIsNotDelivered(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email")
	bad, good := c.user(100), c.user(100)
	c.exec(`ALTER TABLE notifications ADD CONSTRAINT refused CHECK (user_id <> '` + bad.String() + `')`)
	c.use(bad, 90)
	c.use(good, 90)
	_, err := c.try(c.store, c.request(store.Window))
	require.True(t, store.IsData(err), "%v", err)
	assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM tokenalert.river_job"))

	q := c.request(store.Window)
	q.Isolated = true
	_, err = c.try(c.store, q)
	require.NoError(t, err)
	assert.Equal(t, []string{good.String()}, c.list(`SELECT a.user_id::text FROM tokenalert.river_job j JOIN token_limit_alerts a ON a.id = (j.args ->> 'alert_id')::uuid`))
}

// What is on its way goes through a down and an up.
func TestDeliveriesOutliveDown(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email", "webhook")
	c.use(c.user(100), 90)
	c.tick()
	c.exec("UPDATE tokenalert.river_job SET state = 'completed', finalized_at = now() WHERE queue = 'webhook'")
	const look = "SELECT format('%s %s %s', queue, args ->> 'alert_id', state) FROM tokenalert.river_job ORDER BY id"
	before := c.list(look + " LIMIT 1")
	newest := ask[int64](c.site, "SELECT max(id) FROM tokenalert.river_job")
	c.store.Close()
	c.down()
	c.up()
	assert.Equal(t, before, c.list(look))
	assert.Greater(t, ask[int64](c.site, "SELECT min(id) FROM tokenalert.river_job"), newest, "a worker from before would end it as its own")
}

// The chain begins anew after a down: an alert of an older tick with the number of
// this one is not delivered again.
func TestAnAlertOfAnotherChainIsNotDeliveredAgain(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email")
	user := c.user(100)
	c.use(user, 90)
	tick := c.tick().ID
	c.exec("DELETE FROM tokenalert.river_job")
	c.exec("UPDATE tokenalert.usage_periods SET marks = '{}'")
	c.exec("UPDATE token_limit_alerts SET tick_id = $1, created_at = created_at - interval '1 hour'", tick+1)
	c.use(user, 1)
	require.Equal(t, tick+1, c.tick().ID)
	assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM tokenalert.river_job"))
}

// A host may keep the time of an alert less exactly than the tick does.
func TestAnAlertOfALessExactTimeIsDelivered(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.exec("ALTER TABLE token_limit_alerts ALTER COLUMN created_at TYPE timestamptz(0)")
	c.delivering("email")
	c.use(c.user(100), 90)
	c.tick()
	assert.Equal(t, 1, ask[int](c.site, "SELECT count(*) FROM tokenalert.river_job"))
}

// Whoever delivers is woken.
func TestADeliveryThatIsTriedAgainIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email")
	c.use(c.user(100), 90)
	c.tick()
	c.exec("UPDATE tokenalert.river_job SET state = 'discarded', finalized_at = now()")
	worker := c.db.ConnAs(t, pgtest.Runtime)
	_, err := worker.Exec(t.Context(), `LISTEN "tokenalert.river_insert"`)
	require.NoError(t, err)
	queue, err := c.store.Queue()
	require.NoError(t, err)
	retried, err := queue.RetryDelivery(t.Context(), ask[int64](c.site, "SELECT id FROM tokenalert.river_job"))
	require.NoError(t, err)
	assert.True(t, retried)
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n, err := worker.WaitForNotification(soon)
	require.NoError(t, err)
	assert.JSONEq(t, `{"queue": "email"}`, n.Payload)
}

// The host may have a column that is called as a parameter of ours is.
func TestColumnsOfAnyName(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.exec("ALTER TABLE users ADD COLUMN organization text, ADD COLUMN told text, ADD COLUMN email_of text")
	c.exec("ALTER TABLE token_limit_alerts ADD COLUMN told text, ADD COLUMN alert text")
	admin := c.user(0)
	c.exec("UPDATE users SET role = 'admin' WHERE id = $1", admin)
	assert.Equal(t, admin.String(), ask[string](c.site, "SELECT user_id::text FROM tokenalert.admins($1)", c.org))
	c.delivering("email")
	c.use(c.user(100), 90)
	c.tick()
	c.exec("UPDATE tokenalert.river_job SET state = 'running'")
	assert.Equal(t, 1, ask[int](c.site, "SELECT count(*) FROM token_limit_alerts a, tokenalert.recipient(a.id, NULL) WHERE alert_sent"))
	c.exec("SELECT tokenalert.emailed(id) FROM token_limit_alerts")
	assert.Equal(t, "both", ask[string](c.site, "SELECT alert_type FROM token_limit_alerts"))
}

// The role of the worker learns an address while it delivers to it, and at no
// other time; and what a mail server is asked with.
func TestRecipient(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email")
	user := c.user(100)
	c.use(user, 90)
	c.tick()
	queue := c.queue(pgtest.Runtime)
	t.Cleanup(queue.Close)
	var job store.Delivery
	require.NoError(t, c.owner.QueryRow(t.Context(), "SELECT args FROM tokenalert.river_job").Scan(&job))

	r, err := queue.Recipient(t.Context(), job)
	require.NoError(t, err)
	assert.Nil(t, r, "it is not being delivered")
	c.exec("UPDATE tokenalert.river_job SET state = 'running'")
	r, err = queue.Recipient(t.Context(), job)
	require.NoError(t, err)
	require.NotNil(t, r)
	assert.Equal(t, ask[string](c.site, "SELECT email FROM users WHERE id = $1", user), r.Email)
	assert.Equal(t, ask[string](c.site, "SELECT name FROM organizations WHERE id = $1", c.org), r.OrganizationName)
	assert.Nil(t, r.Server, "the host has no such table")
	assert.Nil(t, r.Template)

	require.NoError(t, host.ApplyEmail(t.Context(), c.owner))
	c.exec(`INSERT INTO organization_email_services (organization_id, provider_key, display_name, is_default, smtp_host, smtp_from, smtp_password)
		VALUES ($1, 'other', 'Other', false, 'other.example', 'x@example.org', 'x'), ($1, 'own', 'Own', true, 'mail.example', 'a@example.org', 'hunter2')`, c.org)
	c.exec(`INSERT INTO organization_email_templates (organization_id, template_key, display_name, subject_template, body_template, is_html)
		VALUES ($1, 'welcome', 'Welcome', 'no', 'no', false), ($1, 'token_limit_alert', 'Alert', '{{title}}', '<p>{{message}}</p>', true)`, c.org)
	r, err = queue.Recipient(t.Context(), job)
	require.NoError(t, err)
	assert.Equal(t, &store.MailServer{Host: "mail.example", Port: 587, From: "a@example.org", Password: "hunter2", STARTTLS: new(true)}, r.Server)
	assert.Equal(t, &store.MailTemplate{Subject: "{{title}}", Body: "<p>{{message}}</p>", HTML: true}, r.Template)
	c.exec("UPDATE organization_email_services SET is_enabled = false")
	c.exec("UPDATE organization_email_templates SET is_enabled = false")
	r, err = queue.Recipient(t.Context(), job)
	require.NoError(t, err)
	assert.Nil(t, r.Server)
	assert.Nil(t, r.Template)

	c.exec("UPDATE tokenalert.river_job SET state = 'completed', finalized_at = now()")
	r, err = queue.Recipient(t.Context(), job)
	require.NoError(t, err)
	assert.Nil(t, r)
}

// Which of several servers takes writes the URL need not say.
func TestACopyGoesPastAStandby(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, nil)
	s := siteOn(t, in.New(t, pgtest.Host(host.LMS)))
	user := s.user(0)
	there := in.Standby(t, nil).Of(s.db)
	st, err := store.Open(pgtest.HostsURL(t, pgtest.Owner, "", there, s.db), "")
	require.NoError(t, err)
	t.Cleanup(st.Close)
	n := store.Notification{ID: uuid.New(), OrganizationID: s.org, UserID: user, Title: "80 %"}
	require.Error(t, st.CopyNotification(t.Context(), n))
	require.NoError(t, st.CopyNotification(t.Context(), n))
	assert.Equal(t, 1, s.notified(user))
}
