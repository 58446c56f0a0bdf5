package delivery_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/delivery"
	"tokenalert/internal/host"
	"tokenalert/internal/mailserver"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// admin makes an admin of the organization, who has no limit of their own.
func (s *site) admin(name, address, language string) uuid.UUID {
	s.t.Helper()
	id, err := host.NewUser(s.t.Context(), s.owner, host.User{Organization: s.org, FullName: name, Email: address, Language: &language})
	require.NoError(s.t, err)
	s.exec("UPDATE users SET role = 'admin' WHERE id = $1", id)
	return id
}

// budgets gives the organization a budget of 1000, and waits until it is counted.
func (s *site) budgets() {
	s.t.Helper()
	s.exec("INSERT INTO tokenalert.policies (organization_id, budget, added, version, changed_at) VALUES ($1, 1000, '{}', 0, now())", s.org)
	s.eventually(func() bool { return ask[bool](s, "SELECT counted FROM tokenalert.budgets") }, "the budget is not counted")
}

// uses logs usage of somebody without a limit.
func (s *site) uses(tokens int) {
	s.t.Helper()
	id, err := host.NewUser(s.t.Context(), s.owner, host.User{Organization: s.org})
	require.NoError(s.t, err)
	require.NoError(s.t, host.LogUsage(s.t.Context(), s.owner, id, s.org, tokens))
}

// ends waits until every job has ended, in that state.
func (s *site) ends(jobs int, state string) {
	s.t.Helper()
	s.eventually(func() bool {
		return ask[int](s, "SELECT count(*) FROM tokenalert.river_job WHERE state::text = $1", state) == jobs &&
			ask[int](s, "SELECT count(*) FROM tokenalert.river_job") == jobs
	}, "the jobs do not end as "+state)
}

// Each admin gets what stands in their notification, in their language, by e-mail
// and into the other database, and a webhook is posted once.
func TestABudgetByEachChannel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := pgtest.New(t, pgtest.Host(host.LMS)).Straight()
	page := other.ConnAs(t, pgtest.Owner)
	_, err := page.Exec(t.Context(), `GRANT INSERT (id, organization_id, user_id, title, message, notification_type, link_url) ON notifications TO `+pgtest.Runtime)
	require.NoError(t, err)
	m, channels := s.mails(mailserver.Conduct{})
	rec := s.receives(nil)
	hooks := rec.to()
	channels.Webhook, channels.WebhookSecret, channels.WebhookAllow = hooks.Webhook, hooks.WebhookSecret, hooks.WebhookAllow
	channels.RootCAs.AddCert(rec.server.Certificate())
	url, _ := other.WorkerURLs()
	channels.Notifications = always(url)
	eva := s.admin("Eva Secret", "eva.secret@example.org", "en")
	rui := s.admin("Rui Secret", "rui.secret@example.org", "pt")
	s.leads(delivery.Email, delivery.Webhook, delivery.Notification)
	s.budgets()
	s.exec("UPDATE tokenalert.policies SET language = 'es'")
	r := s.delivers(channels)
	s.uses(850)

	// Two e-mails, two copies, and one webhook.
	s.ends(5, "completed")
	alert := ask[uuid.UUID](s, "SELECT id FROM tokenalert.budget_alerts")
	letters := map[string]mailserver.Letter{}
	for _, got := range m.Messages() {
		letters[got.To] = mailserver.Read(t, got.Raw)
	}
	require.Len(t, m.Messages(), 2)
	for _, told := range []struct {
		id                 uuid.UUID
		address, says, has string
	}{
		{eva, "eva.secret@example.org", "🏢 Your organization has used 80% of its AI tokens", "Hello Eva Secret, the members of your organization have used 850 AI tokens"},
		{rui, "rui.secret@example.org", "🏢 Sua organização usou 80% dos seus tokens de IA", "Olá, Rui Secret"},
	} {
		letter := letters[told.address]
		assert.Equal(t, told.says, letter.Subject)
		require.Len(t, letter.Parts, 2)
		assert.Contains(t, letter.Parts[0], told.has)
		assert.Contains(t, letter.Parts[0], "https://platform.example/admin/token-usage")
		assert.Contains(t, letter.Parts[0], "Example", "the organization")
		assert.Equal(t, "<"+worker.AdminNotificationID(alert, told.id).String()+"@platform.example>", letter.Header.Get("Message-Id"))

		var here, there [5]string
		const columns = "SELECT id::text, organization_id::text, title, message, notification_type FROM notifications WHERE user_id = $1"
		require.NoError(t, s.owner.QueryRow(t.Context(), columns, told.id).Scan(&here[0], &here[1], &here[2], &here[3], &here[4]))
		require.NoError(t, page.QueryRow(t.Context(), columns, told.id).Scan(&there[0], &there[1], &there[2], &there[3], &there[4]))
		assert.Equal(t, here, there)
		assert.Equal(t, told.says, here[2])
		assert.Contains(t, letter.Parts[0], here[3])
	}

	require.Len(t, rec.hooks(), 1)
	hook := rec.hooks()[0]
	assert.Equal(t, "token_budget.alert", hook.kind)
	assert.Equal(t, alert.String(), hook.id)
	data := hook.data
	assert.Equal(t, alert.String(), data["alert_id"])
	assert.Equal(t, s.org.String(), data["organization_id"])
	assert.NotContains(t, data, "user_id")
	assert.Equal(t, []any{80.0, 850.0, 1000.0, 85.0}, []any{data["threshold"], data["tokens_used"], data["token_limit"], data["percent_used"]})
	assert.Equal(t, "es", data["language"])
	assert.Equal(t, "🏢 Tu organización ha usado el 80% de sus tokens de IA", data["title"])
	assert.Contains(t, data["message"], "Hola: tu organización ha usado 850 tokens")

	lines := r.lines(worker.EventDeliveryCompleted)
	require.Len(t, lines, 5)
	admins := 0
	for _, line := range lines {
		fields := line.ContextMap()
		assert.Equal(t, s.org.String(), fields["organization"])
		assert.NotContains(t, fields, "user")
		assert.EqualValues(t, 80, fields["threshold"])
		if fields["channel"] == "webhook" {
			assert.NotContains(t, fields, "admin")
		} else if fields["admin"] == eva.String() || fields["admin"] == rui.String() {
			admins++
		}
	}
	assert.Equal(t, 4, admins)
	r.private("secret", "Secret", "example.org")
}

// A receiver that takes it at the second time gets it under the same id.
func TestABudgetAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.admin("Eva", "eva@example.org", "en")
	m, channels := s.mails(mailserver.Conduct{Rcpt: mailserver.Greylist(1)})
	var rec *receiver
	rec = s.receives(func(w http.ResponseWriter, _ *http.Request) {
		if len(rec.hooks()) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	hooks := rec.to()
	channels.Webhook, channels.WebhookSecret, channels.WebhookAllow = hooks.Webhook, hooks.WebhookSecret, hooks.WebhookAllow
	channels.RootCAs.AddCert(rec.server.Certificate())
	s.leads(delivery.Email, delivery.Webhook)
	s.budgets()
	r := s.delivers(channels)
	s.uses(1000)

	s.ends(2, "completed")
	require.Len(t, rec.hooks(), 3)
	for _, hook := range rec.hooks() {
		assert.Equal(t, ask[string](s, "SELECT id::text FROM tokenalert.budget_alerts WHERE alert_sent"), hook.id)
	}
	assert.Len(t, m.Messages(), 1)
	require.Len(t, r.lines(worker.EventDeliveryRetried), 3)
	for _, line := range r.lines(worker.EventDeliveryRetried) {
		assert.Equal(t, s.org.String(), line.ContextMap()["organization"])
	}
}

// Whoever is no admin any more when it is delivered is not told, which is no
// failure; the others are.
func TestABudgetOfFormerAdmins(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	former, moved, gone := s.admin("Eva", "eva@example.org", "en"), s.admin("Ida", "ida@example.org", "en"), s.admin("Max", "max@example.org", "en")
	s.admin("Rui", "rui@example.org", "pt")
	s.leads(delivery.Email)
	s.budgets()
	s.uses(900)
	s.eventually(func() bool { return ask[int](s, "SELECT count(*) FROM tokenalert.river_job") == 4 }, "the admins are not told")
	elsewhere, err := host.NewOrganization(t.Context(), s.owner, "Elsewhere")
	require.NoError(t, err)
	s.exec("UPDATE users SET role = 'student' WHERE id = $1", former)
	s.exec("UPDATE users SET organization_id = $2 WHERE id = $1", moved, elsewhere)
	s.exec("DELETE FROM users WHERE id = $1", gone)
	m, channels := s.mails(mailserver.Conduct{})
	r := s.delivers(channels)

	assert.Equal(t, "rui@example.org", m.Next(t).To)
	s.eventually(func() bool {
		return ask[string](s, "SELECT string_agg(state::text, ',' ORDER BY state::text) FROM tokenalert.river_job") == "cancelled,cancelled,cancelled,completed"
	}, "the jobs do not end")
	assert.Len(t, m.Messages(), 1)
	assert.Empty(t, r.lines(worker.EventDeliveryFailed))
}

// A budget that is removed meanwhile leaves on its way what it has told.
func TestABudgetThatIsRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.leads(delivery.Webhook)
	s.budgets()
	s.uses(900)
	s.eventually(func() bool { return s.states()["webhook"] == "available" }, "no job")
	s.exec("UPDATE tokenalert.policies SET budget = NULL")
	require.Zero(t, ask[int](s, "SELECT count(*) FROM tokenalert.budgets"))
	rec := s.receives(nil)
	s.delivers(rec.to())
	s.ends(1, "completed")
	require.Len(t, rec.hooks(), 1)
	assert.EqualValues(t, 90, rec.hooks()[0].data["threshold"])
}

// An organization's template for users says what is not true of a budget: it has
// one of its own, or the standard text.
func TestABudgetInAnOrganizationsWords(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, host.ApplyEmail(t.Context(), s.owner))
	s.exec(`INSERT INTO organization_email_templates (organization_id, template_key, subject_template, body_template, is_html)
		VALUES ($1, 'token_limit_alert', 'your own limit', 'your own limit', false)`, s.org)
	s.admin("Eva", "eva@example.org", "en")
	s.leads(delivery.Email)
	m, channels := s.mails(mailserver.Conduct{})
	s.delivers(channels)
	s.budgets()
	s.uses(850)
	assert.Equal(t, "🏢 Your organization has used 80% of its AI tokens", mailserver.Read(t, m.Next(t).Raw).Subject)

	s.exec(`INSERT INTO organization_email_templates (organization_id, template_key, subject_template, body_template, is_html)
		VALUES ($1, 'token_budget_alert', '{{organization_name}}: {{percent}}', '{{recipient_name}}: {{tokens_used}} of {{token_limit}}, until {{reset_date}}', false)`, s.org)
	s.uses(100)
	letter := mailserver.Read(t, m.Next(t).Raw)
	assert.Equal(t, "Example: 95.0%", letter.Subject)
	require.Len(t, letter.Parts, 1)
	assert.Regexp(t, `^Eva: 950 of 1,000, until \w+ 1, \d{4}\n?$`, letter.Parts[0])
}

// Nor is it true of an admin who is told of somebody's alert.
func TestSomebodysAlertInAnOrganizationsWords(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, host.ApplyEmail(t.Context(), s.owner))
	s.exec(`INSERT INTO organization_email_templates (organization_id, template_key, subject_template, body_template, is_html)
		VALUES ($1, 'token_limit_alert', 'your own limit', 'your own limit', false),
		       ($1, 'token_admin_alert', '{{user_name}}: {{percent}}', '{{recipient_name}}, {{user_name}} has used {{tokens_used}}', false)`, s.org)
	s.admin("Eva", "eva@example.org", "en")
	s.exec("INSERT INTO tokenalert.policies (organization_id, admins_from, added, version, changed_at) VALUES ($1, 80, '{}', 0, now())", s.org)
	m, channels := s.mails(mailserver.Conduct{})
	s.leads(delivery.Email)
	s.delivers(channels)
	s.crosses("Ana")
	subjects := map[string]string{}
	for range 2 {
		letter := mailserver.Read(t, m.Next(t).Raw)
		require.Len(t, letter.Parts, 1)
		subjects[letter.Subject] = strings.TrimSpace(letter.Parts[0])
	}
	assert.Equal(t, map[string]string{"your own limit": "your own limit", "Ana: 85.0%": "Eva, Ana has used 85"}, subjects)
}
