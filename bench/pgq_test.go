package main

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/privatepg"
)

// Where there is no PgQ the others are played, and the run says what to install.
func TestPgQIsSkipped(t *testing.T) {
	var said strings.Builder
	b := &bench{options: options{competitors: []string{"pgq", "outbox"}, progress: &said}}
	var err error
	b.server, err = privatepg.Start(t.Context(), privatepg.Options{BinDir: os.Getenv("PGTEST_BIN")})
	require.NoError(t, err)
	t.Cleanup(b.close)
	b.admin, err = pgx.Connect(t.Context(), b.server.URL("postgres"))
	require.NoError(t, err)
	t.Setenv("PATH", t.TempDir()) // no pgqd, whatever the server has

	require.NoError(t, b.build(t.Context()))
	assert.Contains(t, b.absent["pgq"], "install")
	assert.Contains(t, said.String(), "SKIPPED pgq: "+b.absent["pgq"])
	assert.NotContains(t, b.chosen(), named("pgq"))
	assert.Contains(t, b.chosen(), named("outbox"))
}
