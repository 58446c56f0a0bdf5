package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/mailserver"
	"tokenalert/internal/pgtest"
)

func TestTestSendByEmail(t *testing.T) {
	t.Parallel()
	d := newDestination(t, mailserver.Conduct{})
	for language, marked := range map[string]struct{ title, message string }{
		"es": {"[Prueba] ", "Esto es una prueba: "}, "en": {"[Test] ", "This is a test: "}, "pt": {"[Teste] ", "Isto é um teste: "},
	} {
		status, stdout, stderr := typed(t, append(d.byEmail(), "TOKENALERT_THRESHOLDS=70,90"), "test-send", "--channel", "email", "--to", "zoe@example.org", "--language", language)
		require.Equal(t, 0, status, stderr)
		got := d.mail.Next(t)
		assert.Equal(t, "zoe@example.org", got.To)
		assert.Equal(t, "robot", got.User)
		letter := mailserver.Read(t, got.Raw)
		assert.True(t, strings.HasPrefix(letter.Subject, marked.title), letter.Subject)
		assert.Contains(t, letter.Subject, "70")
		require.Len(t, letter.Parts, 2)
		for _, part := range letter.Parts {
			assert.Contains(t, part, marked.message)
			assert.Contains(t, part, "https://platform.example/admin/token-usage")
		}
		assert.Regexp(t, `^sent by email to smtp://`+d.mail.Address()+` in \d+ ms: `, stdout)
		assert.Contains(t, stdout, letter.Subject+"\n")
		assert.Contains(t, "<"+strings.Fields(stdout[strings.Index(stdout, "\nid "):])[1]+"@platform.example>", letter.Header.Get("Message-Id"))
		assert.NotContains(t, stdout+stderr, secret)
	}
}

func TestTestSendByWebhook(t *testing.T) {
	t.Parallel()
	d := newDestination(t, mailserver.Conduct{})
	user := uuid.New()
	ids := map[uuid.UUID]bool{}
	for range 2 {
		status, stdout, stderr := typed(t, d.byWebhook(), "test-send", "--channel", "webhook", "--threshold", "100", "--user", user.String(), "-o", "json")
		require.Equal(t, 0, status, stderr)
		var said trial
		require.NoError(t, json.Unmarshal([]byte(stdout), &said))
		got := d.events()[len(d.events())-1]
		assert.Equal(t, "token_limit.test", got.Type)
		assert.Equal(t, said.ID, got.Data.AlertID)
		assert.Equal(t, &user, got.Data.UserID)
		assert.Equal(t, uuid.Nil, got.Data.OrganizationID)
		assert.EqualValues(t, 100, got.Data.Threshold)
		assert.True(t, strings.HasPrefix(got.Data.Title, "[Prueba] "), got.Data.Title)
		assert.Contains(t, got.Data.Message, "Esto es una prueba")
		assert.NotContains(t, got.Data.Message, "Ana")
		assert.Equal(t, "/admin/token-usage", got.Data.Link, "a path, where the site is not known")
		assert.Equal(t, trial{"webhook", "127.0.0.1", got.Data.AlertID, got.Data.Title, said.DurationMS}, said)
		ids[said.ID] = true
	}
	assert.Len(t, ids, 2, "each test is one of its own to who keeps ids")
}

func TestTestSendANotification(t *testing.T) {
	t.Parallel()
	other := pgtest.New(t, pgtest.Host(host.LMS))
	page := other.ConnAs(t, pgtest.Owner)
	url, _ := other.WorkerURLs()
	user, org := uuid.New(), uuid.New()
	send := func() (int, string, string) {
		return typed(t, []string{"TOKENALERT_NOTIFICATIONS_URL=" + url}, "test-send", "--channel", "notification",
			"--user", user.String(), "--organization", org.String(), "--language", "en")
	}
	status, stdout, stderr := send()
	assert.Equal(t, 1, status)
	assert.Empty(t, stdout)
	assert.Regexp(t, `^tokenalert: not sent by notification to .*, after \d+ ms: .*permission denied for table notifications .*\nits role needs INSERT on \(id, `, stderr)

	_, err := page.Exec(t.Context(), `GRANT INSERT (id, organization_id, user_id, title, message, notification_type, link_url) ON notifications TO `+pgtest.Runtime)
	require.NoError(t, err)
	status, stdout, stderr = send()
	require.Equal(t, 0, status, stderr)
	var id, gotUser, gotOrg uuid.UUID
	var title, message string
	require.NoError(t, page.QueryRow(t.Context(), "SELECT id, user_id, organization_id, title, message FROM notifications").Scan(&id, &gotUser, &gotOrg, &title, &message))
	assert.Equal(t, []uuid.UUID{user, org}, []uuid.UUID{gotUser, gotOrg})
	assert.True(t, strings.HasPrefix(title, "[Test] "), title)
	assert.True(t, strings.HasPrefix(message, "This is a test: nobody has reached any limit. "), message)
	assert.Contains(t, stdout, "\nid "+id.String()+"\n")
}

// What is not sent says why, and what can be done about it.
func TestTestSendFails(t *testing.T) {
	t.Parallel()
	email, hook := []string{"--channel", "email", "--to", "zoe.private@example.org"}, []string{"--channel", "webhook"}
	replace := func(environment []string, setting, value string) []string {
		environment = slices.Clone(environment)
		for i, v := range environment {
			if strings.HasPrefix(v, setting+"=") {
				environment[i] = setting + "=" + value
			}
		}
		return environment
	}
	tests := map[string]struct {
		conduct     mailserver.Conduct
		environment func(d *destination) []string
		args        []string
		answers     int
		says        string // a pattern
	}{
		"no mail server":    {args: email, says: `^tokenalert: not sent by email: TOKENALERT_SMTP_URL is not set`},
		"no webhook":        {args: hook, says: `^tokenalert: not sent by webhook: TOKENALERT_WEBHOOK_URL is not set\n$`},
		"no other database": {args: []string{"--channel", "notification", "--user", uuid.NewString(), "--organization", uuid.NewString()}, says: `TOKENALERT_NOTIFICATIONS_URL is not set\n$`},
		"a wrong setting": {
			environment: func(*destination) []string { return []string{"TOKENALERT_SMTP_URL=smtp://u:" + secret + "@h"} },
			args:        email, says: `^tokenalert: TOKENALERT_SMTP_URL needs TOKENALERT_EMAIL=on\nTOKENALERT_SMTP_URL needs TOKENALERT_EMAIL_FROM, the sender\n$`,
		},
		"a wrong password": {
			environment: func(d *destination) []string {
				return replace(d.byEmail(), "TOKENALERT_SMTP_URL", "smtp://robot:no"+secret+"@"+d.mail.Address())
			},
			args: email, says: `after \d+ ms: smtp: AUTH: 535 5\.7\.8\nsee that TOKENALERT_SMTP_URL has the user and password of this server`,
		},
		"a certificate that is not trusted": {
			environment: func(d *destination) []string { return d.byEmail()[1:] },
			args:        email, says: `smtp: TLS: .*\n.*SSL_CERT_FILE names others`,
		},
		"no server there": {
			environment: func(d *destination) []string {
				return replace(d.byEmail(), "TOKENALERT_SMTP_URL", "smtp://127.0.0.1:1")
			},
			args: email, says: `smtp: connecting: dial: connect: connection refused\nsee that TOKENALERT_SMTP_URL has the right host and port`,
		},
		"no such address": {
			conduct: mailserver.Conduct{Rcpt: mailserver.Refuse(550, [3]int{5, 1, 1}, "no such user")}, environment: (*destination).byEmail,
			args: email, says: `smtp: RCPT: 550 5\.1\.1 no such user\nsee that there is such an address\n$`,
		},
		"greylisted": {
			conduct: mailserver.Conduct{Rcpt: mailserver.Greylist(1)}, environment: (*destination).byEmail,
			args: email, says: `greylisted, try again\nthe server asks to be tried again later, which .tokenalert run. would do\n$`,
		},
		"a secret that is not the receiver's": {
			environment: func(d *destination) []string {
				return replace(d.byWebhook(), "TOKENALERT_WEBHOOK_SECRET", strings.Replace(hookSecret, "a2tr", "AAAA", 1))
			},
			args: hook, says: `webhook to 127\.0\.0\.1: it answered 401\nsee that the receiver verifies with the secret in TOKENALERT_WEBHOOK_SECRET`,
		},
		"a receiver that fails": {
			environment: (*destination).byWebhook, answers: http.StatusInternalServerError,
			args: hook, says: `it answered 500\nthe receiver's own log may say why\n$`,
		},
		"a private address": {
			environment: func(d *destination) []string { return replace(d.byWebhook(), "TOKENALERT_WEBHOOK_ALLOW", "off") },
			args:        hook, says: `^tokenalert: TOKENALERT_WEBHOOK_URL: its address 127\.0\.0\.1 is private or special, and TOKENALERT_WEBHOOK_ALLOW holds neither it nor the host\n$`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDestination(t, test.conduct)
			if test.answers != 0 {
				d.answers.Store(int32(test.answers)) //nolint:gosec // a status
			}
			var environment []string
			if test.environment != nil {
				environment = test.environment(d)
			}
			status, stdout, stderr := typed(t, environment, append([]string{"test-send"}, test.args...)...)
			assert.Equal(t, 1, status)
			assert.Empty(t, stdout)
			assert.Regexp(t, test.says, stderr)
			for _, private := range []string{secret, hookSecret, "zoe", "robot", "/hooks"} {
				assert.NotContains(t, stderr, private)
			}
			assert.Empty(t, d.mail.Messages())
		})
	}
}

// A page that a person can look at.
func TestPreviewChannels(t *testing.T) {
	t.Parallel()
	site := []string{"TOKENALERT_SITE_URL=https://platform.example"}
	for _, p := range previewed(t, site, "--channel", "email") {
		require.NotNil(t, p.Email)
		assert.Nil(t, p.Webhook)
		assert.Equal(t, p.Title, p.Email.Subject)
		for _, text := range []string{p.Email.Text, p.Email.HTML} {
			assert.Contains(t, text, p.Message)
			assert.Contains(t, text, "https://platform.example/admin/token-usage")
			assert.Contains(t, text, sampleOrganization)
		}
		assert.Contains(t, p.Email.HTML, `<html lang="`+string(p.Language)+`"`)
	}
	status, stdout, stderr := typed(t, site, "preview", "--channel", "webhook", "--language", "en", "--threshold", "90", "-o", "json")
	require.Equal(t, 0, status, stderr)
	var hooks []struct {
		Email   any `json:"email"`
		Webhook struct {
			Type string         `json:"type"`
			Data map[string]any `json:"data"`
		} `json:"webhook"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &hooks))
	require.Len(t, hooks, 1)
	assert.Nil(t, hooks[0].Email)
	assert.Equal(t, "token_limit.alert", hooks[0].Webhook.Type)
	assert.InDelta(t, 90, hooks[0].Webhook.Data["percent_used"], 0)
	assert.NotContains(t, hooks[0].Webhook.Data["message"], "Ana")

	one := []string{"preview", "--channel", "email", "--language", "en", "--threshold", "90"}
	status, stdout, stderr = typed(t, site, one...)
	require.Equal(t, 0, status, stderr)
	assert.Regexp(t, `(?s)^en, 90 %, near \(built in\)\n⚡ 90% of AI tokens used\n\nHello Ana Núñez, .*\nColegio Ñandú\n\n<!doctype html>.*</html>\n$`, stdout)
	status, html, stderr := typed(t, site, append(one, "--html")...)
	require.Equal(t, 0, status, stderr)
	assert.True(t, strings.HasPrefix(html, "<!doctype html>"), html)
	assert.True(t, strings.HasSuffix(stdout, html), html)
}
