package store_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/store"
)

// starts are what the host's database may be before we come: the three of the
// platform, and one whose tables are not in schema public.
var starts = map[string]func(t *testing.T) *site{
	"cms with trigger": func(t *testing.T) *site { return newSite(t, host.CMSWithTrigger) },
	"cms":              func(t *testing.T) *site { return newSite(t, host.CMS) },
	"lms":              func(t *testing.T) *site { return newSite(t, host.LMS) },
	"in a schema of its own": func(t *testing.T) *site {
		db := pgtest.New(t, pgtest.Host(host.LMS))
		conn := db.ConnAs(t, pgtest.Owner)
		for _, sql := range []string{
			"CREATE SCHEMA \"Platform\"",
			"ALTER DATABASE " + db.Name + " SET search_path = \"Platform\", public",
			"DROP TABLE organizations, users, ai_usage_logs, notifications CASCADE",
			"DROP FUNCTION log_ai_usage(uuid, uuid, integer, integer, integer, varchar, varchar, varchar, jsonb)",
			"DROP FUNCTION log_ai_usage(uuid, uuid, integer, integer, integer, varchar, varchar, varchar, jsonb, text, text)",
		} {
			_, err := conn.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
		}
		require.NoError(t, host.Apply(t.Context(), db.ConnAs(t, pgtest.Owner), host.CMSWithTrigger))
		return siteOn(t, db)
	},
}

func TestDownLeavesTheDatabaseAsItWas(t *testing.T) {
	t.Parallel()
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			before := s.catalogue()
			s.up()
			s.work()
			up := s.catalogue()
			require.NotEqual(t, before, up)
			s.down()
			s.requireSame(before, s.catalogue("tokenalert_archive"))
			assert.True(t, ask[bool](s, "SELECT to_regclass('tokenalert_archive.usage_periods') IS NOT NULL"))

			s.up()
			s.requireSame(up, s.catalogue())
			s.down()
			s.requireSame(before, s.catalogue("tokenalert_archive"))
		})
	}
}

// history is all that people were told and we know: what must outlive a down.
func (s *site) history() map[string][]string {
	s.t.Helper()
	return map[string][]string{
		"alerts":        s.list("SELECT to_jsonb(t)::text FROM token_limit_alerts t ORDER BY id"),
		"notifications": s.list("SELECT to_jsonb(t)::text FROM notifications t ORDER BY id"),
		"totals":        s.list("SELECT (to_jsonb(t) - 'tick_id')::text FROM tokenalert.usage_periods t ORDER BY user_id, period_start"),
		"limits":        s.list("SELECT to_jsonb(t)::text FROM tokenalert.user_limits t ORDER BY user_id"),
		"settings":      s.list("SELECT to_jsonb(t)::text FROM tokenalert.settings t"),
		"roles":         s.list("SELECT role::text FROM tokenalert.granted_roles ORDER BY 1"),
	}
}

// limit gives a user a limit where this host keeps it.
func (s *site) limit(user uuid.UUID, limit int) {
	s.t.Helper()
	if ask[bool](s, `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'monthly_token_limit')`) {
		s.exec("UPDATE users SET monthly_token_limit = $2 WHERE id = $1", user, limit)
		return
	}
	s.exec("INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ($1, $2)", user, limit)
}

func TestUpDownUpLosesNothing(t *testing.T) {
	t.Parallel()
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.up()
			one, other := s.user(0), s.user(0)
			s.limit(one, 1000)
			s.limit(other, 1000)
			s.use(one, 850)
			s.use(other, 1200)
			s.work()
			require.Equal(t, []string{"80 told"}, s.alerts(one))
			require.Equal(t, []string{"80 superseded", "90 superseded", "100 told"}, s.alerts(other))
			history := s.history()

			s.down()
			s.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens) VALUES ($1, $2, 10, 10, 0)", one, s.org)
			m := s.migrator(pgtest.Owner, nil)
			require.NoError(t, m.Up(t.Context())) // which remembers the runtime role
			assert.Equal(t, history, s.history())
			assert.False(t, ask[bool](s, "SELECT to_regnamespace('tokenalert_archive') IS NOT NULL"), "the archive is left")

			s.work()
			s.requireTotals() // with what came between down and up
			assert.Equal(t, "full", ask[string](s, "SELECT kind FROM tokenalert.ticks ORDER BY id LIMIT 1"), "not a first start")
			assert.Equal(t, history["alerts"], s.history()["alerts"], "somebody was told again")
			assert.Equal(t, 1, s.notified(one))
			s.use(one, 60)
			s.work()
			assert.Equal(t, []string{"80 told", "90 told"}, s.alerts(one))
			assert.Equal(t, 2, s.notified(one))
		})
	}
}

// A down that stops where the host has its trigger back, and then an up.
func TestUpAfterADownThatStoppedOnItsWay(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.delivering("email")
	told, lowered := c.user(100), c.user(1000)
	c.use(told, 90)
	c.use(lowered, 500)
	c.settle()
	job := "SELECT array_agg(args::text) FROM tokenalert.river_job"
	before := ask[[]string](c.site, job)
	require.Len(t, before, 1)
	m := c.migrator(pgtest.Owner, nil)
	for range 3 {
		require.NoError(t, m.DownOne(t.Context()))
	}
	c.exec("UPDATE users SET monthly_token_limit = 600 WHERE id = $1", lowered) // which nobody notices
	c.up()
	assert.Equal(t, before, ask[[]string](c.site, job))
	c.store = c.runtime()
	_, err := c.try(c.store, c.request(store.Window))
	require.ErrorIs(t, err, store.ErrNeedsFull)
	c.count(store.Full)
	assert.Equal(t, []string{"80 told"}, c.alerts(lowered))
	assert.Equal(t, []string{"80 told"}, c.alerts(told))
}

func TestUpAfterDownKeepsWhatTheHostToldSince(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	s.exec(`CREATE TABLE notifications (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), organization_id uuid NOT NULL, user_id uuid NOT NULL,
		title varchar(255) NOT NULL, message text NOT NULL, notification_type varchar(50), link_url varchar(255), is_read boolean, created_at timestamptz DEFAULT now())`)
	s.up()
	user := s.user(1000)
	s.use(user, 850)
	s.work()
	require.Equal(t, []string{"80 told"}, s.alerts(user))

	s.down()
	s.use(user, 60) // the host tells 90
	// As if it had told 80 anew, over the row that it got back.
	s.exec("UPDATE token_limit_alerts SET sent_at = sent_at + interval '1 second' WHERE user_id = $1 AND alert_threshold = 80", user)
	require.Equal(t, 2, s.notified(user))

	s.up()
	s.work()
	assert.Equal(t, []string{"80 told", "90 carried_over"}, s.alerts(user))
	assert.Equal(t, []string{"80", "90"}, s.list(`SELECT alert_threshold::text FROM token_limit_alerts
		WHERE user_id = $1 AND period_start IS NULL ORDER BY 1`, user), "rows of the host's own")
	assert.Equal(t, 2, s.notified(user))
	s.requireTotals()
}

func TestUpTouchesNoRow(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind)
			user := s.user(0)
			for range 10 {
				s.use(user, 5)
			}
			// A row that is written anew gets another ctid, or another xmin.
			const rows = "SELECT format('%s %s %s', ctid, xmin, id) FROM ai_usage_logs ORDER BY id"
			const file = "SELECT pg_relation_filenode('ai_usage_logs')::bigint"
			before, fileBefore := s.list(rows), ask[int64](s, file)
			s.up()
			assert.Equal(t, before, s.list(rows))
			assert.Equal(t, fileBefore, ask[int64](s, file))
			assert.Equal(t, 10, ask[int](s, "SELECT count(*) FROM ai_usage_logs WHERE xact_id IS NULL"))

			s.use(user, 5)
			assert.Equal(t, 1, ask[int](s, "SELECT count(*) FROM ai_usage_logs WHERE xact_id IS NOT NULL"))
			s.down()
			s.up()
			assert.Equal(t, fileBefore, ask[int64](s, file))
			assert.Equal(t, 11, ask[int](s, "SELECT count(*) FROM ai_usage_logs WHERE xact_id IS NULL"))
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	m := s.migrator(pgtest.Owner, nil)
	before := s.catalogue()
	count := func() (pending, applied int) {
		steps, err := m.Status(t.Context())
		require.NoError(t, err)
		require.Len(t, steps, int(migrations.Version()))
		for i, step := range steps {
			assert.EqualValues(t, i+1, step.Version)
			assert.True(t, strings.HasPrefix(step.Name, "0000"), step.Name)
			if step.AppliedAt.IsZero() {
				pending++
			} else {
				applied++
			}
		}
		return pending, applied
	}
	pending, applied := count()
	assert.Zero(t, applied)
	s.requireSame(before, s.catalogue())

	s.up()
	total := pending
	pending, applied = count()
	assert.Zero(t, pending)
	assert.Equal(t, total, applied)

	s.down()
	pending, _ = count()
	assert.Equal(t, total, pending)
}

func TestUpAgainChangesNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind)
			s.up()
			user := s.user(0)
			s.limit(user, 100)
			s.use(user, 95)
			s.work()
			catalogue, history := s.catalogue(), s.history()
			chain := s.list("SELECT to_jsonb(t)::text FROM tokenalert.ticks t ORDER BY id")
			const versions = "SELECT to_jsonb(v)::text FROM tokenalert.goose_db_version v ORDER BY id"
			applied := s.list(versions)
			said := &diary{}
			require.NoError(t, s.migrator(pgtest.Owner, said.note).Up(t.Context()))
			s.requireSame(catalogue, s.catalogue())
			assert.Equal(t, history, s.history())
			assert.Equal(t, chain, s.list("SELECT to_jsonb(t)::text FROM tokenalert.ticks t ORDER BY id"))
			assert.Equal(t, applied, s.list(versions))
			assert.Empty(t, said.sentences)
		})
	}
}

func TestDownWithoutUp(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	before := s.catalogue()
	said := &diary{}
	require.NoError(t, s.migrator(pgtest.Owner, said.note).Down(t.Context()))
	assert.True(t, said.has("not installed"))
	s.requireSame(before, s.catalogue())
}

func TestDownEndsADownThatWasInterrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	before := s.catalogue()
	s.exec("CREATE SCHEMA tokenalert")
	s.exec("CREATE TABLE tokenalert.goose_db_version (version_id bigint, is_applied boolean)")
	s.exec("INSERT INTO tokenalert.goose_db_version VALUES (0, true)")
	s.down()
	s.requireSame(before, s.catalogue())
}

// One ahead is left as it is: a worker of this version runs on it.
func TestUpOnANewerSchema(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	for ahead := range int64(2) {
		s.exec("INSERT INTO tokenalert.goose_db_version (version_id, is_applied) VALUES ($1, true)", migrations.Version()+1+ahead)
		before := s.catalogue()
		said := &diary{}
		err := s.migrator(pgtest.Owner, said.note).Up(t.Context())
		if ahead == 0 {
			require.NoError(t, err)
			assert.True(t, said.has("one version ahead"))
		} else {
			require.ErrorContains(t, err, "does not know")
		}
		s.requireSame(before, s.catalogue())
	}
}
