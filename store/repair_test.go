package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

func TestUpStartsAForeignChainAnew(t *testing.T) {
	t.Parallel()
	for name, restored := range map[string]string{
		"another cluster's identifier": "UPDATE tokenalert.ticks SET system_identifier = system_identifier + 1",
		"a snapshot from ahead":        "UPDATE tokenalert.ticks SET snapshot = '4000000000:4000000000:' WHERE id = (SELECT max(id) FROM tokenalert.ticks)",
		"rows from ahead":              "UPDATE ai_usage_logs SET xact_id = '4000000000' WHERE tokens_used = 850",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, host.CMSWithTrigger)
			s.up()
			s.exec("GRANT SELECT (xact_id) ON ai_usage_logs TO " + pgtest.Writer)
			one, other := s.user(1000), s.user(1000)
			s.use(one, 850)
			s.use(other, 1000)
			s.work()
			s.limit(other, 3000) // whose mark clears
			s.work()
			history, catalogue := s.history(), s.catalogue()
			file := ask[int64](s, "SELECT pg_relation_filenode('ai_usage_logs')::bigint")

			s.exec(restored)
			s.use(one, 20) // came after the last tick
			_, err := s.runtime().Check(t.Context())
			require.ErrorIs(t, err, store.ErrForeignChain)
			require.ErrorContains(t, err, "migrate up")

			said := &diary{}
			require.NoError(t, s.migrator(pgtest.Owner, said.note).Up(t.Context()))
			assert.True(t, said.has("another cluster"))
			s.requireSame(catalogue, s.catalogue()) // column, index and grants
			assert.Equal(t, history, s.history())
			assert.Equal(t, file, ask[int64](s, "SELECT pg_relation_filenode('ai_usage_logs')::bigint"), "the table was rewritten")
			assert.Zero(t, ask[int](s, "SELECT count(xact_id) FROM ai_usage_logs"))

			s.work()
			s.requireTotals()
			assert.Equal(t, []string{"full"}, s.list("SELECT kind FROM tokenalert.ticks ORDER BY id"), "a rebase is not a first start")
			assert.Equal(t, history["alerts"], s.history()["alerts"])
			assert.Equal(t, 1, s.notified(one))
			s.use(one, 30)
			s.limit(other, 1000) // back to a limit at which all was told
			s.work()
			assert.Equal(t, []string{"80 told", "90 told"}, s.alerts(one))
			assert.Equal(t, []string{"80 superseded", "90 superseded", "100 told"}, s.alerts(other))
			s.requireTotals()
		})
	}
}

func TestUpBuildsABrokenIndexAgain(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]string{
		"invalid": "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ai_usage_logs_xact_id_idx'::regclass",
		"missing": "DROP INDEX ai_usage_logs_xact_id_idx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			whole := s.catalogue()
			s.superExec(broken)
			_, err := s.runtime().Check(t.Context())
			require.ErrorIs(t, err, store.ErrSchema)
			require.ErrorContains(t, err, "index")
			require.NoError(t, s.migrator(pgtest.Owner, nil).Up(t.Context()))
			s.requireSame(whole, s.catalogue())
			_, err = s.runtime().Check(t.Context())
			require.NoError(t, err)
		})
	}
}

// TestUpRestoresPrivileges: a dump restored without them leaves tables with
// none and functions with the default.
func TestUpRestoresPrivileges(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, kind)
			whole := s.catalogue()
			for _, privilege := range s.granted(pgtest.Runtime) {
				s.exec("REVOKE " + privilege + " FROM " + pgtest.Runtime)
			}
			require.Empty(t, s.granted(pgtest.Runtime))
			s.exec("REVOKE ALL ON SEQUENCE tokenalert.doorbell FROM PUBLIC")
			s.exec("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tokenalert TO PUBLIC")
			require.NoError(t, s.migrator(pgtest.Owner, nil).Up(t.Context()))
			s.requireSame(whole, s.catalogue())
			require.NoError(t, s.duties(t.Context(), pgtest.Runtime))
		})
	}
}

func TestAWriterInsertsAgainAfterUp(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.exec("GRANT INSERT ON ai_usage_logs TO " + pgtest.Writer)
	s.exec("REVOKE ALL ON SEQUENCE tokenalert.doorbell FROM PUBLIC")
	require.NoError(t, s.migrator(pgtest.Owner, nil).Up(t.Context()))
	s.requireWriterRings()
}

func TestUpForgivesARoleThatIsGone(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	role := s.db.Name + "_gone"
	s.superExec("CREATE ROLE " + role)
	m := s.migrator(pgtest.Owner, nil)
	require.NoError(t, m.Grant(t.Context(), role))
	s.superExec("DROP OWNED BY " + role + "; DROP ROLE " + role)
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Down(t.Context()))
	require.NoError(t, m.Up(t.Context()))
}
