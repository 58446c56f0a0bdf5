package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// doctorRequest is that of a worker with the default settings.
func doctorRequest(t *testing.T) store.DoctorRequest {
	t.Helper()
	q, err := worker.DefaultConfig().DoctorRequest()
	require.NoError(t, err)
	return q
}

// diagnose has the doctor look over these connections.
func diagnose(t *testing.T, url, directURL string, q store.DoctorRequest) store.Diagnosis {
	t.Helper()
	st, err := store.OpenFor("doctor", url, directURL)
	require.NoError(t, err)
	defer st.Close()
	return st.Doctor(t.Context(), q)
}

func (s *site) diagnose(role string) store.Diagnosis {
	s.t.Helper()
	url, listen := s.db.URLs(role)
	return diagnose(s.t, url, listen, doctorRequest(s.t))
}

// examined is what one check came to.
func examined(t *testing.T, d store.Diagnosis, check string) store.Examined {
	t.Helper()
	for _, x := range d.Checks {
		if x.Check == check {
			return x
		}
	}
	require.FailNow(t, "there is no check "+check, "%+v", d)
	return store.Examined{}
}

// bad are the findings that are no notes.
func bad(d store.Diagnosis) []store.Finding {
	var found []store.Finding
	for _, x := range d.Checks {
		for _, f := range x.Findings {
			if f.Severity != store.Note {
				found = append(found, f)
			}
		}
	}
	return found
}

// leads runs a worker until the returned function is called, which waits for it.
func (s *site) leads() (stop func()) {
	s.t.Helper()
	st, err := store.Open(s.db.WorkerURLs())
	require.NoError(s.t, err)
	health := worker.NewHealth(time.Now, worker.HealthBounds{Live: 90 * time.Second, Answer: 10 * time.Second, Tick: 30 * time.Second})
	w, err := worker.New(worker.DefaultConfig(), st, zap.NewNop(), worker.NewMetrics("test", "test"), health)
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(s.t, <-ended)
		st.Close()
	}
	s.t.Cleanup(stop)
	s.eventually("no worker leads", func() bool { return s.locked() && ask[bool](s, "SELECT EXISTS (SELECT FROM tokenalert.ticks)") })
	return stop
}

// follow does what a finding says: SQL as the superuser, and migrates as the
// owner.
func (s *site) follow(f store.Finding) {
	s.t.Helper()
	require.NotEmpty(s.t, f.Commands, "%+v", f)
	psql := s.db.Conn(s.t)
	for _, command := range f.Commands {
		role, grants := strings.CutPrefix(command, "tokenalert migrate grant ")
		switch {
		case strings.HasSuffix(command, ";"):
			_, err := psql.Exec(s.t.Context(), command, pgx.QueryExecModeSimpleProtocol)
			require.NoError(s.t, err, command)
		case grants:
			require.NoError(s.t, s.migrator(pgtest.Owner, nil).Grant(s.t.Context(), strings.Trim(role, "'")))
		case command == "tokenalert migrate up":
			require.NoError(s.t, s.migrator(pgtest.Owner, nil).Up(s.t.Context()))
		case command == "tokenalert migrate down":
			s.down()
		default:
			require.FailNow(s.t, "how to follow that?", command)
		}
	}
}

// TestTheDoctorFindsNothingWrong with an installation at work, whoever asks.
func TestTheDoctorFindsNothingWrong(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMSWithTrigger, host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, kind)
			user := s.user(0)
			s.limit(user, 1000)
			s.leads()
			s.use(user, 850)
			for _, role := range []string{pgtest.Owner, pgtest.Runtime, "postgres"} {
				d := s.diagnose(role)
				assert.Empty(t, bad(d), role)
				for _, x := range d.Checks {
					assert.Empty(t, x.Skipped, "%s, as %s", x.Check, role)
					assert.NotEmpty(t, x.Well, "%s, as %s", x.Check, role)
				}
				if role == "postgres" {
					assert.Zero(t, d.Count(store.Note), "%+v", d)
				}
				assert.Equal(t, role, d.Role)
				assert.Equal(t, s.db.Name, d.Database)
			}
		})
	}
}

// TestTheDoctorGoesOnWhereACheckFails, and says that it could not look.
func TestTheDoctorGoesOnWhereACheckFails(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.work()
	require.Empty(t, examined(t, s.diagnose(pgtest.Runtime), "settings").Findings)
	s.exec("BEGIN; LOCK TABLE tokenalert.settings IN ACCESS EXCLUSIVE MODE")
	d := s.diagnose(pgtest.Runtime)
	found := examined(t, d, "settings").Findings
	require.Len(t, found, 1)
	assert.Equal(t, store.Warning, found[0].Severity)
	assert.Contains(t, found[0].Says, "could not look: read settings in force: ERROR: canceling statement due to lock timeout")
	for _, x := range d.Checks {
		if x.Check != "settings" {
			for _, f := range x.Findings {
				assert.NotContains(t, f.Says, "could not look", x.Check)
			}
		}
	}
	s.exec("ROLLBACK")
	assert.Empty(t, examined(t, s.diagnose(pgtest.Runtime), "settings").Findings)
}

// TestTheDoctorIsBriefWithLargeTables that have no index to look by, for which a
// policy that takes its time stands here.
func TestTheDoctorIsBriefWithLargeTables(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.useAt("infinity")
	s.superNamed(`CREATE POLICY slow ON ai_usage_logs TO PUBLIC USING (pg_sleep(60) IS NOT NULL); ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY`)
	found := examined(t, s.diagnose(pgtest.Runtime), "usage-rows").Findings
	require.Len(t, found, 1)
	assert.Equal(t, store.Note, found[0].Severity)
	assert.Contains(t, found[0].Says, "was not to be seen within 3s: has it no index on created_at?")
	assert.Equal(t, []string{"CREATE INDEX CONCURRENTLY ON public.ai_usage_logs (created_at);"}, found[0].Commands)
}
