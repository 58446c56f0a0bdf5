package worker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest/observer"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

func TestANotificationIsInTheUsersLanguage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const es, en, pt = "utilizados", "used", "dos tokens de IA utilizados"
	languages := map[string]string{
		"es": es, "es-CL": es, "ES_mx": es, "en": en, "en-US": en, "EN": en, "pt": pt, "pt-BR": pt, "pt_PT": pt,
		"fr": pt, "": pt, "portuguese": pt, // unknown: the default
	}
	users := map[string]uuid.UUID{}
	for language := range languages {
		users[language] = w.newUser(host.User{Limit: new(1000), Language: &language})
		w.use(users[language], 850)
	}
	none := w.newUser(host.User{Limit: new(1000)})
	w.use(none, 850)
	w.start(func(c *worker.Config) { c.Language = "pt" })
	w.settle()
	for language, ending := range languages {
		title := w.notifications(users[language])[0].Title
		assert.True(t, strings.HasSuffix(title, ending) && (ending != es || !strings.HasSuffix(title, pt)), "%q: %s", language, title)
	}
	assert.True(t, strings.HasSuffix(w.notifications(none)[0].Title, pt))
}

func TestANotificationCarriesTheHostsTypeAndLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.newUser(host.User{Limit: new(10_000), FullName: "Zoë Example"})
	first := w.start()
	w.use(user, 8567)
	w.settle()
	n := w.notifications(user)[0]
	assert.Equal(t, "token_limit_alert", n.Type)
	assert.Equal(t, "/admin/token-usage", n.Link)
	assert.Equal(t, "📊 80% de tokens de IA utilizados", n.Title)
	for _, part := range []string{"Hola, Zoë Example:", "8.567 tokens", "85,6%", "límite de 10.000"} {
		assert.Contains(t, n.Message, part)
	}
	first.stop()
	w.start(func(c *worker.Config) { c.LinkURL = "https://learn.example.org/usage?tab=ai" })
	w.use(user, 1000)
	w.settle()
	assert.Equal(t, "https://learn.example.org/usage?tab=ai", w.notifications(user)[1].Link)
	var unread bool
	require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT bool_and(NOT is_read AND organization_id = $2) FROM notifications WHERE user_id = $1",
		user, w.org).Scan(&unread))
	assert.True(t, unread)
}

// Whatever is delivered again carries the same ids.
func TestAlertIDsAreTheSameWhenDeliveredAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	first := w.start()
	w.use(user, 950)
	w.settle()
	ids := func() []uuid.UUID {
		t.Helper()
		var ids []uuid.UUID
		require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT array_agg(id ORDER BY id)
			FROM (SELECT id FROM token_limit_alerts UNION ALL SELECT id FROM notifications) x`).Scan(&ids))
		return ids
	}
	before := ids()
	require.Len(t, before, 3) // two rows, one notification
	for _, id := range before {
		assert.Equal(t, uuid.Version(5), id.Version())
	}
	first.stop()
	w.ownerExec("TRUNCATE token_limit_alerts, notifications, tokenalert.ticks, tokenalert.usage_periods, tokenalert.settings")
	w.start()
	w.settle()
	assert.Equal(t, before, ids())
}

func TestTheLineOfAnAlertHasItsFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.newUser(host.User{Limit: new(1000), FullName: "Zoë Example", Email: "zoe@example.org"})
	r := w.start()
	r.asleep()
	w.use(user, 957)
	w.settle()
	sent := r.await(worker.EventAlertSent)
	fields := sent.ContextMap()
	assert.Equal(t, documented(worker.EventAlertSent), named(sent))
	var notification, start, end string
	require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT notification_id::text, period_start::text, period_end::text
		FROM token_limit_alerts WHERE alert_sent`).Scan(&notification, &start, &end))
	for name, want := range map[string]any{
		"user": user.String(), "organization": w.org.String(), "threshold": int32(90), "percent": 95.7, "used": int64(957),
		"limit": int64(1000), "notification": notification, "latency_from": "commit",
	} {
		assert.Equal(t, want, fields[name], name)
	}
	require.Contains(t, fields, "latency_ms")
	assert.Positive(t, fields["latency_ms"])
	assert.Less(t, fields["latency_ms"], settleWithin)

	suppressed := r.await(worker.EventAlertSuppressed)
	assert.Subset(t, documented(worker.EventAlertSuppressed), named(suppressed))
	assert.Equal(t, "superseded", suppressed.ContextMap()["reason"])
	assert.EqualValues(t, 80, suppressed.ContextMap()["threshold"])
	for _, line := range r.logs.All() {
		text := fmt.Sprint(line.Message, line.ContextMap())
		assert.NotContains(t, text, "Zoë")
		assert.NotContains(t, text, "zoe@")
	}
}

// documented are an event's fields as docs/events.md has them, and the event's
// own.
func documented(event worker.EventName) []string {
	i := slices.IndexFunc(worker.Events, func(d worker.EventDoc) bool { return d.Name == event })
	return slices.Sorted(slices.Values(append([]string{"event"}, worker.Events[i].Fields...)))
}

func named(line observer.LoggedEntry) []string {
	var names []string
	for _, f := range line.Context {
		names = append(names, f.Key)
	}
	slices.Sort(names)
	return names
}

func TestLatencyCountsFromTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ahead := nextYear(time.May, 20)
	w.db.SetNow(t, ahead)
	user := w.user(1000)
	r := w.start()
	r.asleep()
	w.useAt(user, 850, ahead) // from the row, it would be no time at all
	w.settle()
	fields := r.await(worker.EventAlertSent).ContextMap()
	assert.Equal(t, "commit", fields["latency_from"])
	var ago float64
	require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT date_part('epoch', clock_timestamp() - pg_xact_commit_timestamp(xact_id::xid))
		FROM ai_usage_logs`).Scan(&ago))
	assert.Positive(t, fields["latency_ms"])
	assert.Less(t, fields["latency_ms"].(time.Duration).Seconds(), ago)
}

func TestLatencyCountsFromTheRowWhereTheCommitIsNotKnown(t *testing.T) {
	t.Parallel()
	server := pgtest.StartServer(t, map[string]string{"track_commit_timestamp": "off"})
	w := worldOn(t, server.New(t, pgtest.Migrated(host.CMS)))
	w.db.SetNow(t, nextYear(time.May, 20))
	ahead := w.user(1000)
	r := w.start()
	r.asleep()
	w.useAt(ahead, 850, nextYear(time.May, 20))
	w.settle()
	fields := r.await(worker.EventAlertSent).ContextMap()
	assert.Equal(t, "row", fields["latency_from"])
	assert.Equal(t, time.Duration(0), fields["latency_ms"], "never below nothing")
}
