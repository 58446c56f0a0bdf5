package pgtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"testing"

	"tokenalert/internal/privatepg"
)

// poolerEnv names the program that workers go through.
const poolerEnv = "PGTEST_POOLER"

// Pooler starts a PgBouncer of the test's own before the database's server, in
// a pool_mode and with further settings. It skips the test where none is
// installed.
func (db *DB) Pooler(t testing.TB, mode string, settings map[string]string) *privatepg.Pooler {
	t.Helper()
	all := map[string]string{"pool_mode": mode}
	maps.Copy(all, settings)
	pooler, err := startPooler(t.Context(), db.in.server, installedPooler(t), all)
	if err != nil {
		t.Fatal("pgtest:", err)
	}
	t.Cleanup(pooler.Stop)
	return pooler
}

func startPooler(ctx context.Context, server *privatepg.Server, program string, settings map[string]string) (*privatepg.Pooler, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", poolerEnv, err)
	}
	return server.StartPooler(ctx, privatepg.PoolerOptions{
		Program: path, Users: roles, Settings: settings,
	})
}

// installedPooler finds PgBouncer, which distributions install where only root
// looks. It skips the test where there is none.
func installedPooler(t testing.TB) string {
	t.Helper()
	for _, program := range []string{os.Getenv(poolerEnv), "pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(program); err == nil {
			return path
		}
	}
	t.Skip("SKIPPED: pgbouncer is not installed")
	return ""
}
