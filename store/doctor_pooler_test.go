package store_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

func TestTheDoctorSeesAPooler(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mode     string
		settings map[string]string
		direct   bool // TOKENALERT_LISTEN_URL leads past it
		severity store.Severity
		says     string
	}{
		"before everything, by transaction":                {"transaction", nil, false, store.Broken, "a pooler in transaction mode stands before the lead"},
		"before everything, by transaction, in turn":       {"transaction", map[string]string{"server_round_robin": "1", "min_pool_size": "3"}, false, store.Broken, "a pooler in transaction mode stands before the lead"},
		"before everything, by transaction, one at a time": {"transaction", map[string]string{"default_pool_size": "1"}, false, store.Broken, "a pooler in transaction mode stands before the lead"},
		"before everything, by session":                    {"session", nil, false, store.Note, "a pooler in session mode stands before the lead"},
		"before ticks, by transaction":                     {"transaction", nil, true, "", "DATABASE_URL goes through one in transaction mode, and TOKENALERT_LISTEN_URL straight to the server, as it must"},
		"before ticks, by session":                         {"session", nil, true, "", "DATABASE_URL goes through one in session mode"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			direct := s.db.URLAs(pgtest.Runtime)
			q := doctorRequest(t)
			before := examined(t, diagnose(t, direct, "", q), "pooler")
			require.Empty(t, before.Findings)
			assert.Equal(t, "none: straight to the server", before.Well)
			through := s.db.Pooler(t, tt.mode, tt.settings).URLAs(pgtest.Runtime, s.db.Name)
			listen := ""
			if tt.direct {
				listen = direct
			}
			d := diagnose(t, through, listen, q)
			x := examined(t, d, "pooler")
			if tt.severity == "" {
				assert.Empty(t, x.Findings)
				assert.Contains(t, x.Well, tt.says)
			} else {
				require.Len(t, x.Findings, 1, "%+v", x)
				assert.Equal(t, tt.severity, x.Findings[0].Severity)
				assert.Contains(t, x.Findings[0].Says, tt.says)
				assert.Equal(t, "set TOKENALERT_LISTEN_URL to the server's own address, past the pooler", x.Findings[0].Remedy)
				// And that remedy helps.
				assert.Empty(t, examined(t, diagnose(t, through, direct, q), "pooler").Findings)
			}
			for _, other := range d.Checks { // the others look all the same
				for _, f := range other.Findings {
					assert.NotContains(t, f.Says, "could not look", other.Check)
				}
			}
		})
	}
}

func TestTheDoctorComparesBothConnections(t *testing.T) {
	t.Parallel()
	s, other := migratedSite(t, host.CMS), migratedSite(t, host.CMS)
	elsewhere := siteOn(t, pgtest.StartServer(t, nil).New(t, pgtest.Migrated(host.CMS)))
	here := s.db.URLAs(pgtest.Runtime)
	// A copy of the data directory has the same identifier, and was started at another time.
	s.superExec("CREATE SCHEMA copied; GRANT USAGE ON SCHEMA copied TO PUBLIC; " +
		"CREATE FUNCTION copied.pg_postmaster_start_time() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'")
	for says, listen := range map[string]string{
		"": here,
		"TOKENALERT_LISTEN_URL leads to database " + other.db.Name + " and DATABASE_URL to " + s.db.Name: other.db.URLAs(pgtest.Runtime),
		"TOKENALERT_LISTEN_URL leads to another server than DATABASE_URL":                                elsewhere.db.URLAs(pgtest.Runtime),
		"leads to another server":               here + "&search_path=" + url.QueryEscape("copied,pg_catalog,public"),
		`database "no_such_one" does not exist`: pgtest.Server(t).URLAs(pgtest.Runtime, "no_such_one"),
		"connection refused":                    "postgres://tokenalert_runtime:secret-of-mine@127.0.0.1:1/x",
	} {
		x := examined(t, diagnose(t, here, listen, doctorRequest(t)), "pooler")
		if says == "" {
			assert.Empty(t, x.Findings)
			continue
		}
		require.Len(t, x.Findings, 1, says)
		assert.Equal(t, store.Broken, x.Findings[0].Severity)
		assert.Contains(t, x.Findings[0].Says, says)
		assert.NotEmpty(t, x.Findings[0].Remedy)
		assert.NotContains(t, fmt.Sprintf("%+v", x), "secret-of-mine")
	}
}
