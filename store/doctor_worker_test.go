package store_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// leadLock is the advisory lock of whoever leads.
const leadLock = "8390042714202270821"

// queue shadows how full the notification queue is, which takes gigabytes.
func queue(usage string) func(*site) {
	return doing("CREATE SCHEMA IF NOT EXISTS full_queue; GRANT USAGE ON SCHEMA full_queue TO PUBLIC; " +
		"CREATE OR REPLACE FUNCTION full_queue.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql AS 'SELECT " + usage + "::float8'")
}

// putInForce runs a worker until its own settings are in force.
func putInForce(s *site) {
	stop := s.leads()
	s.eventually("its settings are not in force", func() bool { return ask[bool](s, "SELECT worker <> 'another' FROM tokenalert.settings") })
	stop()
}

func TestTheDoctorFindsFaultsOfTheWorker(t *testing.T) {
	t.Parallel()
	led := func(s *site) { s.leads() }
	inForce := func(change string) func(*site) {
		return func(s *site) { s.exec("UPDATE tokenalert.settings SET " + change + ", worker = 'another'") }
	}
	runFaults(t, map[string]fault{
		"another zone in force": {
			check: "settings", before: (*site).work, make: inForce("time_zone = 'America/Santiago'"),
			severity: store.Warning, says: []string{"TOKENALERT_TIME_ZONE=UTC here, and America/Santiago is in force, put there by worker another"},
			remedy: "set TOKENALERT_TIME_ZONE=America/Santiago here, or restart the workers with TOKENALERT_TIME_ZONE=UTC", cure: putInForce,
		},
		"other thresholds in force": {
			check: "settings", as: pgtest.Runtime, before: (*site).work, make: inForce("thresholds = '{50,100}'"),
			severity: store.Warning, says: []string{"TOKENALERT_THRESHOLDS=80,90,100 here, and 50,100 is in force"}, remedy: "set TOKENALERT_THRESHOLDS=50,100 here", cure: putInForce,
		},
		"a forced bell": {
			check: "settings", before: (*site).work, make: inForce("bell_forced = true"),
			severity: store.Warning, says: []string{"TOKENALERT_BELL=auto here, and on is in force"}, remedy: "set TOKENALERT_BELL=on here", cure: putInForce,
		},
		"a bell armed for days": {
			check: "bell", make: doing("SELECT setval('tokenalert.doorbell', date_part('epoch', now() + interval '3 days')::bigint)"),
			severity: store.Warning, says: []string{"longer than any worker arms it"}, commands: []string{"SELECT setval('tokenalert.doorbell', 0, false);"},
		},
		"a bell armed for ever": {
			check: "bell", as: pgtest.Runtime, make: doing("SELECT setval('tokenalert.doorbell', 9223372036854775807)"),
			severity: store.Warning, says: []string{"longer than any worker arms it"}, commands: []string{"SELECT setval('tokenalert.doorbell', 0, false);"},
		},
		"a bell armed for nobody": {
			check: "bell", before: doing("SELECT setval('tokenalert.doorbell', date_part('epoch', now() + interval '20 seconds')::bigint)"),
			make:     doing("SELECT setval('tokenalert.doorbell', date_part('epoch', now() + interval '4 minutes')::bigint)"),
			severity: store.Warning, says: []string{"longer than a lease (30s), though nobody leads"}, commands: []string{"SELECT setval('tokenalert.doorbell', 0, false);"},
		},
		"a queue that nobody reads": {
			check: "bell", path: "full_queue,pg_catalog,public", before: queue("0.49"), make: queue("0.5"),
			severity: store.Warning, says: []string{"the notification queue is 50 % full"}, remedy: "stays in a transaction", cure: queue("0.1"),
		},
		"a user set aside": {
			check: "lag", before: led,
			make: doing(`INSERT INTO tokenalert.recounts (user_id, due_at, cause)
				VALUES ('00000000-0000-0000-0000-0000000000ff', now() + interval '5 minutes', 'set_aside')`),
			severity: store.Warning, says: []string{"1 user is set aside and not told", "00000000-0000-0000-0000-0000000000ff"},
			commands: []string{"UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside';"},
			cure: func(s *site) {
				s.exec("UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside'")
				s.eventually("the worker does not try it again", func() bool { return ask[int](s, "SELECT count(*) FROM tokenalert.recounts") == 0 })
			},
		},
		"a budget set aside": {
			check: "lag", before: led,
			make: doing(`INSERT INTO tokenalert.recounts (organization_id, due_at, cause)
				VALUES ('00000000-0000-0000-0000-0000000000fe', now() + interval '5 minutes', 'set_aside')`),
			severity: store.Warning, says: []string{"1 budget is set aside, and nobody told of it", "of organization 00000000-0000-0000-0000-0000000000fe"},
			commands: []string{"UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside';"},
			cure: func(s *site) {
				s.exec("UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside'")
				s.eventually("the worker does not try it again", func() bool { return ask[int](s, "SELECT count(*) FROM tokenalert.recounts") == 0 })
			},
		},
	})
}

func TestTheDoctorSaysWhoLeads(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	for _, role := range []string{pgtest.Owner, pgtest.Runtime} {
		stop := s.leads()
		x := examined(t, s.diagnose(role), "lead")
		require.Empty(t, x.Findings)
		assert.Regexp(t, `^worker \S+, since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, x.Well)
		stop()
		d := s.diagnose(role)
		found := examined(t, d, "lead").Findings
		require.Len(t, found, 1)
		assert.Equal(t, store.Finding{
			Severity: store.Warning, Says: "nobody leads, so nobody is told",
			Remedy: "start a worker, and keep it running:", Commands: []string{"tokenalert run"},
		}, found[0])
		assert.Equal(t, "nobody leads", examined(t, d, "lag").Skipped)
	}

	// A session that has the lock and is no worker's.
	_, err := s.db.ConnAs(t, pgtest.Runtime).Exec(t.Context(), "SELECT pg_advisory_lock("+leadLock+")")
	require.NoError(t, err)
	found := examined(t, s.diagnose(pgtest.Runtime), "lead").Findings
	require.Len(t, found, 1)
	assert.Equal(t, store.Warning, found[0].Severity)
	assert.Contains(t, found[0].Says, "held by a session that is no worker's")
	s.follow(found[0])
	s.eventually("the session does not end", func() bool { return !s.locked() })
	found = examined(t, s.diagnose(pgtest.Owner), "lead").Findings
	require.Len(t, found, 1)
	assert.Equal(t, "nobody leads, so nobody is told", found[0].Says)

	other := migratedSite(t, host.CMS) // who leads in another database does not lead here
	other.leads()
	assert.Len(t, examined(t, s.diagnose(pgtest.Owner), "lead").Findings, 1)
}

// TestTheDoctorSeesLag where a worker leads and its tick hangs.
func TestTheDoctorSeesLag(t *testing.T) {
	t.Parallel()
	hang := func(s *site) (release func()) {
		user := s.user(100)
		s.leads()
		release = s.db.HoldTicks(t)
		s.use(user, 100)
		admin := &site{t: t, owner: s.db.Conn(t)} // sees everybody's sessions
		s.eventually("no tick hangs", func() bool {
			return ask[bool](admin, `SELECT EXISTS (SELECT FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'tokenalert tick' AND wait_event = 'PgSleep')`)
		})
		return release
	}
	look := func(s *site, overdue time.Duration) []store.Finding {
		q := doctorRequest(t)
		q.Overdue = overdue
		database, listen := s.db.WorkerURLs()
		return examined(t, diagnose(t, database, listen, q), "lag").Findings
	}
	counted := func(s *site) {
		s.eventually("it is not counted", func() bool {
			return ask[bool](s, "SELECT NOT EXISTS (SELECT FROM tokenalert.recounts) AND EXISTS (SELECT FROM token_limit_alerts)")
		})
	}
	t.Run("usage", func(t *testing.T) {
		t.Parallel()
		s := migratedSite(t, host.CMS)
		release := hang(s)
		assert.Empty(t, look(s, time.Minute), "not yet")
		found := look(s, time.Millisecond)
		require.Len(t, found, 1)
		assert.Equal(t, store.Warning, found[0].Severity)
		assert.Regexp(t, `^usage of \d+s ago is not counted, though a worker leads$`, found[0].Says)
		assert.Contains(t, found[0].Remedy, "see the worker's log")
		release()
		counted(s)
		assert.Empty(t, look(s, time.Millisecond))
	})
	t.Run("usage of long ago", func(t *testing.T) {
		t.Parallel()
		s := migratedSite(t, host.CMS)
		release := hang(s)
		s.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
			VALUES ($1, $2, 1, 1, 0, now() - interval '2 minutes')`, s.user(0), s.org)
		// It committed just now, which this server knows.
		if ask[bool](s, "SELECT current_setting('track_commit_timestamp')::boolean") {
			assert.Empty(t, look(s, time.Minute))
		} else {
			assert.Len(t, look(s, time.Minute), 1)
		}
		release()
		counted(s)
	})
	t.Run("corrections", func(t *testing.T) {
		t.Parallel()
		s := migratedSite(t, host.CMS)
		release := hang(s)
		s.exec("INSERT INTO tokenalert.recounts (user_id, due_at, cause) VALUES (gen_random_uuid(), now() - interval '50 seconds', 'held')")
		assert.Empty(t, look(s, time.Minute), "not yet")
		s.exec("INSERT INTO tokenalert.recounts (user_id, due_at, cause) VALUES (gen_random_uuid(), now() - interval '70 seconds', 'held')")
		found := look(s, time.Minute)
		require.Len(t, found, 1)
		assert.Equal(t, "corrections are due for more than 1m0s, though a worker leads", found[0].Says)
		release()
		counted(s)
		assert.Empty(t, look(s, time.Minute))
	})
	t.Run("corrections without a time", func(t *testing.T) {
		t.Parallel()
		s := migratedSite(t, host.CMS)
		release := hang(s)
		s.exec("INSERT INTO tokenalert.recounts (user_id, cause) VALUES (gen_random_uuid(), 'limit_changed')")
		assert.Empty(t, look(s, time.Minute), "a tick was taken just now")
		s.exec("UPDATE tokenalert.ticks SET started_at = started_at - interval '2 minutes'")
		assert.Len(t, look(s, time.Minute), 1)
		release()
		counted(s)
		assert.Empty(t, look(s, time.Minute))
	})
	t.Run("counted while it is watched", func(t *testing.T) {
		t.Parallel()
		s := migratedSite(t, host.CMS)
		release := hang(s)
		// A lock says that the doctor has looked.
		s.exec(`CREATE SCHEMA watched; GRANT USAGE ON SCHEMA watched TO PUBLIC;
			CREATE FUNCTION watched.isfinite(at timestamptz) RETURNS boolean LANGUAGE plpgsql AS
			$$ BEGIN PERFORM pg_advisory_lock_shared(7); RETURN pg_catalog.isfinite(at); END $$`)
		q := doctorRequest(t)
		q.Overdue = time.Millisecond
		st, err := store.OpenFor("doctor", s.db.URLAs(pgtest.Runtime)+"&search_path="+url.QueryEscape("watched,pg_catalog,public"), "")
		require.NoError(t, err)
		defer st.Close()
		looked := make(chan store.Diagnosis, 1)
		go func() { looked <- st.Doctor(t.Context(), q) }()
		s.eventually("the doctor does not look", func() bool {
			return ask[bool](s, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
		})
		release()
		assert.Empty(t, examined(t, <-looked, "lag").Findings)
	})
	t.Run("never counted", func(t *testing.T) {
		t.Parallel()
		s := migratedSite(t, host.CMS)
		l := lead(t, s.runtime(), time.Minute)
		require.True(t, acquire(t, l))
		assert.Empty(t, look(s, time.Minute))
		s.eventually("it does not say so", func() bool {
			found := look(s, time.Second)
			return len(found) == 1 && found[0].Severity == store.Warning && assert.Contains(t, found[0].Says, "has not counted once")
		})
	})
}
