package delivery_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/delivery"
	"tokenalert/internal/host"
	"tokenalert/internal/mailserver"
	"tokenalert/worker"
)

const mailPassword = "hunter2/%"

// mails runs a mail server with an account, and returns it and the channels that
// lead to it.
func (s *site) mails(c mailserver.Conduct) (*mailserver.Server, delivery.Channels) {
	s.t.Helper()
	c.Mechanisms, c.User, c.Password = []string{"PLAIN"}, "robot", mailPassword
	m := mailserver.Start(s.t, c)
	return m, delivery.Channels{
		Email: true, SMTP: always("smtp://robot:hunter2%2F%25@" + m.Address()), From: "Alerts <alerts@platform.example>",
		SiteURL: "https://platform.example/", RootCAs: m.Pool,
	}
}

// person makes a user of an organization who has used 85 % of their limit.
func (s *site) person(u host.User) uuid.UUID {
	s.t.Helper()
	u.Limit = new(100)
	if u.Organization == uuid.Nil {
		u.Organization = s.org
	}
	id, err := host.NewUser(s.t.Context(), s.owner, u)
	require.NoError(s.t, err)
	require.NoError(s.t, host.LogUsage(s.t.Context(), s.owner, id, u.Organization, 85))
	return id
}

// ownServer gives an organization a mail server of its own.
func (s *site) ownServer(org uuid.UUID, m *mailserver.Server, from string) {
	s.t.Helper()
	s.exec(`INSERT INTO organization_email_services (organization_id, is_default, smtp_host, smtp_port, smtp_from, smtp_username, smtp_password, smtp_starttls)
		VALUES ($1, true, $2, $3, $4, 'robot', $5, true)`, org, m.Host, m.Port, from, mailPassword)
}

// private fails the test where a replica's log, or the queue, holds what is
// nobody's business.
func (r *replica) private(secrets ...string) {
	r.s.t.Helper()
	said := strings.Join(askAll(r.s, "SELECT j::text FROM tokenalert.river_job j"), "\n")
	for _, line := range r.logs.All() {
		said += fmt.Sprint(line.Message, line.ContextMap(), "\n")
	}
	for _, secret := range append(secrets, mailPassword, "hunter2", "robot", "Zoe", "@") {
		assert.NotContains(r.s.t, said, secret)
	}
}

// askAll is the answer to a query of one column of text.
func askAll(s *site, sql string) []string {
	s.t.Helper()
	return ask[[]string](s, "SELECT coalesce(array_agg(x), '{}') FROM ("+sql+") AS t (x)")
}

func TestByEmail(t *testing.T) {
	t.Parallel()
	for language, says := range map[string]struct{ message, button string }{
		"es-CL": {"Hola, Zoe Núñez", "Ver el uso"},
		"en":    {"Hello Zoe Núñez", "See usage"},
		"pt":    {"Olá, Zoe Núñez", "Ver o uso"},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.leads(delivery.Email)
			m, channels := s.mails(mailserver.Conduct{})
			r := s.delivers(channels)
			s.person(host.User{FullName: "Zoe Núñez", Email: "zoe.secret@example.org", Language: &language})

			got := m.Next(t)
			assert.Equal(t, "alerts@platform.example", got.From)
			assert.Equal(t, "zoe.secret@example.org", got.To)
			assert.Equal(t, "robot", got.User)
			assert.True(t, got.Secure)
			letter := mailserver.Read(t, got.Raw)
			assert.Equal(t, "<"+ask[string](s, "SELECT id::text FROM token_limit_alerts")+"@platform.example>", letter.Header.Get("Message-Id"))
			assert.Equal(t, ask[string](s, "SELECT title FROM notifications"), letter.Subject)
			assert.Equal(t, language[:2], letter.Header.Get("Content-Language"))
			require.Equal(t, []string{"text/plain", "text/html"}, letter.Types)
			message := ask[string](s, "SELECT message FROM notifications")
			assert.Contains(t, message, says.message)
			for _, part := range letter.Parts {
				assert.Contains(t, part, message)
				assert.Contains(t, part, says.button)
				assert.Contains(t, part, "https://platform.example/admin/token-usage")
				assert.Contains(t, part, "Example", "the organization")
			}
			line := r.await(worker.EventDeliveryCompleted, 1)
			assert.Equal(t, "email", line.ContextMap()["channel"])
			assert.Equal(t, "both", ask[string](s, "SELECT alert_type FROM token_limit_alerts"))
			s.eventually(func() bool { return s.states()["email"] == "completed" }, "the job does not end")
			assert.Len(t, m.Messages(), 1)
			r.private("secret", "example.org")
		})
	}
}

// An organization is written to by its own server and in its own words, also
// where the settings have no server.
func TestByEmailOfAnOrganization(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, host.ApplyEmail(t.Context(), s.owner))
	own, channels := s.mails(mailserver.Conduct{})
	channels.SMTP, channels.From = nil, ""
	s.ownServer(s.org, own, "School <school@own.example>")
	s.exec(`INSERT INTO organization_email_templates (organization_id, template_key, subject_template, body_template, is_html)
		VALUES ($1, 'token_limit_alert', '{{ organization_name }}: {{percent}}', '<p>{{recipient_name}} {{recipient}} {{ phone }}</p>', true)`, s.org)
	s.leads(delivery.Email)
	r := s.delivers(channels)
	s.person(host.User{FullName: "Zoe <b>", Email: "zoe@example.org", Language: new("en")})

	got := own.Next(t)
	assert.Equal(t, "school@own.example", got.From)
	assert.Equal(t, "robot", got.User)
	letter := mailserver.Read(t, got.Raw)
	assert.Equal(t, "Example: 85.0%", letter.Subject)
	require.Equal(t, []string{"text/plain", "text/html"}, letter.Types)
	assert.Equal(t, ask[string](s, "SELECT message FROM notifications"), strings.Split(letter.Parts[0], "\n")[0])
	assert.Equal(t, "<p>Zoe &lt;b&gt;  </p>", letter.Parts[1])
	r.await(worker.EventDeliveryCompleted, 1)
	warned := r.await(worker.EventDeliveryQueue, 1).ContextMap()["reason"]
	assert.Equal(t, fmt.Sprintf("organization %s: [phone recipient]", s.org), warned)
	r.private("own.example")
}

// What cannot be delivered, and what becomes of it.
func TestNotByEmail(t *testing.T) {
	t.Parallel()
	noUser := mailserver.Refuse(550, [3]int{5, 1, 1}, "no such user here: zoe.secret@example.org")
	tests := map[string]struct {
		conduct mailserver.Conduct
		change  func(s *site, c *delivery.Channels)
		address string
		want    string // the error, as a pattern
	}{
		"no server": {
			change: func(_ *site, c *delivery.Channels) { c.SMTP = nil },
			want:   "^there is no mail server: set TOKENALERT_SMTP_URL, or give the organization one of its own, enabled and the default$",
		},
		"the organization's is disabled, and there is no other": {
			change: func(s *site, c *delivery.Channels) {
				c.SMTP = nil
				s.exec("INSERT INTO organization_email_services (organization_id, is_default, is_enabled, smtp_host) VALUES ($1, true, false, 'mail.example')", s.org)
			},
			want: "^there is no mail server",
		},
		"no such user":          {conduct: mailserver.Conduct{Rcpt: noUser}, want: "^smtp: RCPT: 550 5.1.1$"},
		"a user without one":    {address: " ", want: "^the user has no e-mail address$"},
		"an address that is no": {address: "zoe.secret", want: "^smtp: the message: is not an e-mail address$"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			require.NoError(t, host.ApplyEmail(t.Context(), s.owner))
			m, channels := s.mails(test.conduct)
			if test.change != nil {
				test.change(s, &channels)
			}
			s.leads(delivery.Email)
			if test.address == "" {
				test.address = "zoe.secret@example.org"
			}
			s.person(host.User{FullName: "Zoe", Email: test.address})
			r := s.delivers(channels)

			line := r.await(worker.EventDeliveryFailed, 1)
			assert.Regexp(t, test.want, line.ContextMap()["error"])
			assert.Equal(t, "error", line.Level.String())
			s.eventually(func() bool { return s.states()["email"] == "cancelled" }, "the job does not end")
			assert.Empty(t, r.lines(worker.EventDeliveryRetried))
			assert.Len(t, r.lines(worker.EventDeliveryFailed), 1)
			assert.Empty(t, m.Messages())
			assert.Equal(t, "notification", ask[string](s, "SELECT alert_type FROM token_limit_alerts"))
			r.private("secret", "example.org")
		})
	}
}

// What a server does not take now is sent again, and arrives once.
func TestByEmailAgain(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	for name, test := range map[string]struct {
		conduct mailserver.Conduct
		retried int
		says    string
	}{
		"greylisted": {mailserver.Conduct{Rcpt: mailserver.Greylist(2)}, 2, "^smtp: RCPT: 451 4.7.1 greylisted, try again$"},
		"hung up on": {mailserver.Conduct{Data: func() error {
			if broken.CompareAndSwap(false, true) {
				return mailserver.ErrHangUp
			}
			return nil
		}}, 1, "^smtp: the end of DATA: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.leads(delivery.Email)
			m, channels := s.mails(test.conduct)
			r := s.delivers(channels)
			s.person(host.User{FullName: "Zoe", Email: "zoe.secret@example.org"})
			r.await(worker.EventDeliveryCompleted, 1)
			retried := r.lines(worker.EventDeliveryRetried)
			require.Len(t, retried, test.retried)
			assert.Regexp(t, test.says, retried[0].ContextMap()["error"])
			s.eventually(func() bool { return s.states()["email"] == "completed" }, "the job does not end")
			assert.Len(t, m.Messages(), 1)
			assert.Equal(t, "both", ask[string](s, "SELECT alert_type FROM token_limit_alerts"))
			r.private("secret", "example.org")
		})
	}
}

// A server that never answers holds up nobody whose organization has another.
func TestAServerThatHangs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.NoError(t, host.ApplyEmail(t.Context(), s.owner))
	var hanging atomic.Int64
	stuck, _ := s.mails(mailserver.Conduct{Mail: func(string) error {
		hanging.Add(1)
		return mailserver.ErrHang
	}})
	other, channels := s.mails(mailserver.Conduct{})
	channels.RootCAs.AppendCertsFromPEM(stuck.PEM)
	s.ownServer(s.org, stuck, "stuck@own.example")
	elsewhere, err := host.NewOrganization(t.Context(), s.owner, "Elsewhere")
	require.NoError(t, err)
	s.leads(delivery.Email)
	r := s.delivers(channels)
	// More than there are workers.
	for range delivery.PerServer + 40 {
		s.person(host.User{FullName: "Zoe"})
	}
	s.eventually(func() bool { return hanging.Load() == delivery.PerServer }, "it is not asked")

	for range 5 {
		s.person(host.User{FullName: "Zoe", Organization: elsewhere})
		other.Next(t)
	}
	r.await(worker.EventDeliveryCompleted, 5)
	assert.Len(t, other.Messages(), 5)
	assert.EqualValues(t, delivery.PerServer, hanging.Load())
	assert.Empty(t, r.lines(worker.EventDeliveryRetried), "waiting for a turn is no failure")
	assert.Empty(t, r.lines(worker.EventDeliveryFailed))
	r.private("own.example")
}

// A crowd's e-mails go one after the other as the server takes them: none is sent
// away to come again later.
func TestACrowdByEmail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, channels := s.mails(mailserver.Conduct{})
	s.leads(delivery.Email)
	const crowd = 10 * delivery.PerServer
	for range crowd {
		s.crosses("Ana")
	}
	s.eventually(func() bool { return ask[int](s, "SELECT count(*) FROM tokenalert.river_job") == crowd }, "not all are told")
	r := s.delivers(channels)
	r.await(worker.EventDeliveryCompleted, crowd)
	assert.Zero(t, ask[int](s, "SELECT count(*) FROM tokenalert.river_job WHERE metadata ? 'snoozes'"))
	assert.Equal(t, "both", ask[string](s, "SELECT string_agg(DISTINCT alert_type, ',') FROM token_limit_alerts WHERE alert_sent"))
}
