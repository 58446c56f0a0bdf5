package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Dump dumps the database with pg_dump, as the superuser. It skips the test
// where there is none that knows the server.
func (db *DB) Dump(t testing.TB, options ...string) string {
	t.Helper()
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), client(t, "pg_dump"), append(options, "--dbname="+db.URL())...) //nolint:gosec // no shell; what tests ask for
	cmd.Stderr = &said
	out, err := cmd.Output()
	if strings.Contains(said.String(), "server version mismatch") {
		t.Skip("SKIPPED: pg_dump is older than the server")
	}
	if err != nil {
		t.Fatal("pgtest: pg_dump:", err, said.String())
	}
	return string(out)
}

// Restore runs a dump as a role, with psql or, where it is in the custom format,
// pg_restore, and fails at the first error.
func (db *DB) Restore(t testing.TB, role, dump string) {
	t.Helper()
	name, options := "psql", []string{"--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"}
	if strings.HasPrefix(dump, "PGDMP") {
		name, options = "pg_restore", []string{"--exit-on-error"}
	}
	cmd := exec.CommandContext(t.Context(), client(t, name), append(options, "--dbname="+db.URLAs(role))...) //nolint:gosec // no shell; what tests ask for
	cmd.Stdin = strings.NewReader(dump)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pgtest: %s: %s: %s", name, err, out)
	}
}

// client finds a program of PostgreSQL that is not part of a server.
func client(t testing.TB, name string) string {
	t.Helper()
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if bin := os.Getenv("PGTEST_BIN"); bin != "" {
		candidates = []string{filepath.Join(bin, name)}
	}
	if path, err := exec.LookPath(name); err == nil {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil { //nolint:gosec // PGTEST_BIN is the tester's own
			return path
		}
	}
	t.Skip("SKIPPED: " + name + " is not installed")
	return ""
}
