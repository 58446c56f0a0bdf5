package store_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// pooled starts a PgBouncer before the server of a URL and returns the URL of
// the same database through it. It runs as the server's user, who alone may
// enter its socket.
func pooled(t *testing.T, direct, mode, more string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("SKIPPED: pgbouncer is not installed")
	}
	u, err := url.Parse(direct)
	require.NoError(t, err)
	query := u.Query()

	folder, err := os.MkdirTemp("", "pooler-") // short, for a socket is in it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	server, err := os.Stat(query.Get("host"))
	require.NoError(t, err)
	owner := server.Sys().(*syscall.Stat_t)
	users := ""
	for _, role := range []string{pgtest.Owner, pgtest.Runtime, pgtest.Writer} {
		users += fmt.Sprintf("%q \"\"\n", role)
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "users"), []byte(users), 0o644))
	ini := fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = trust
auth_file = %s/users
pool_mode = %s
%s
`, query.Get("host"), query.Get("port"), folder, folder, mode, more)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "ini"), []byte(ini), 0o644))
	require.NoError(t, os.Chmod(folder, 0o755))

	cmd := exec.Command(program, "-q", filepath.Join(folder, "ini"))
	cmd.Dir = "/"
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(folder, int(owner.Uid), int(owner.Gid)))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	log := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log)
		}
	})
	query.Set("host", folder)
	query.Set("port", "6432")
	u.RawQuery = query.Encode()
	s := &site{t: t}
	s.eventually("PgBouncer does not answer", func() bool {
		conn, err := pgx.Connect(t.Context(), u.String())
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	})
	return u.String()
}

func TestTheDoctorSeesAPooler(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mode, more string
		direct     bool // TOKENALERT_LISTEN_URL leads past it
		severity   store.Severity
		says       string
	}{
		"before everything, by transaction":                {"transaction", "", false, store.Broken, "a pooler in transaction mode stands before the lead"},
		"before everything, by transaction, in turn":       {"transaction", "server_round_robin = 1\nmin_pool_size = 3", false, store.Broken, "a pooler in transaction mode stands before the lead"},
		"before everything, by transaction, one at a time": {"transaction", "default_pool_size = 1", false, store.Broken, "a pooler in transaction mode stands before the lead"},
		"before everything, by session":                    {"session", "", false, store.Note, "a pooler in session mode stands before the lead"},
		"before ticks, by transaction":                     {"transaction", "", true, "", "DATABASE_URL goes through one in transaction mode, and TOKENALERT_LISTEN_URL straight to the server, as it must"},
		"before ticks, by session":                         {"session", "", true, "", "DATABASE_URL goes through one in session mode"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			direct := s.db.URLAs(pgtest.Runtime)
			q := doctorRequest(t)
			before := examined(t, diagnose(t, direct, "", q), "pooler")
			require.Empty(t, before.Findings)
			assert.Equal(t, "none: straight to the server", before.Well)
			through := pooled(t, direct, tt.mode, tt.more)
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
