package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
)

// doctor runs the command as a role, with a password that no output may hold.
func (p *platform) doctor(role string, args ...string) (status int, stdout string) {
	p.t.Helper()
	return p.doctorWith([]string{"DATABASE_URL=" + withPassword(p.t, p.db.URLAs(role), secret)}, args...)
}

func (p *platform) doctorWith(environment []string, args ...string) (status int, stdout string) {
	p.t.Helper()
	status, stdout, stderr := typed(p.t, environment, append([]string{"doctor"}, args...)...)
	assert.Empty(p.t, stderr)
	assert.NotContains(p.t, stdout, secret)
	assert.NotContains(p.t, stdout, "\x1b", "colours in a pipe")
	return status, stdout
}

func TestDoctorExitStatus(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.user(1000)
	w := p.leads()
	for _, role := range []string{pgtest.Owner, pgtest.Runtime} {
		status, stdout := p.doctor(role)
		assert.Equal(t, 0, status, stdout)
		assert.Contains(t, stdout, "database "+p.db.Name+" as role "+role+"\n")
		for _, line := range []string{"✓ server ", "✓ schema ", "✓ triggers ", "✓ lead ", "✓ lag ", "\nall is well"} {
			assert.Contains(t, stdout, line)
		}
		assert.NotContains(t, stdout, "\n! ")
		assert.NotContains(t, stdout, "\n✗ ")
	}

	w.terminate()
	status, stdout := p.doctor(pgtest.Owner)
	assert.Equal(t, 1, status, stdout)
	assert.Contains(t, stdout, "! lead                   nobody leads, so nobody is told\n"+
		"                         → start a worker, and keep it running:\n"+
		"                             tokenalert run\n")
	assert.Contains(t, stdout, "- lag                    not looked at: nobody leads\n")
	assert.Contains(t, stdout, "\n0 broken, 1 warning, ")

	p.exec("ALTER TABLE ai_usage_logs DISABLE TRIGGER tokenalert_ring")
	status, stdout = p.doctor(pgtest.Runtime)
	assert.Equal(t, 2, status, stdout)
	assert.Contains(t, stdout, "✗ triggers               1 trigger is disabled, tokenalert_ring on public.ai_usage_logs")
	assert.Contains(t, stdout, "  ALTER TABLE public.ai_usage_logs ENABLE TRIGGER tokenalert_ring;\n")
	assert.Contains(t, stdout, "\n1 broken, 1 warning, ")
}

func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.user(1000)
	p.exec("ALTER TABLE ai_usage_logs DISABLE TRIGGER tokenalert_ring")
	status, stdout := p.doctor(pgtest.Runtime, "--output", "json")
	assert.Equal(t, 2, status)
	var document map[string]any
	require.NoError(t, json.Unmarshal([]byte(stdout), &document))
	assert.Equal(t, stampedVersion, document["version"])
	assert.EqualValues(t, migrations.Version(), document["schema_version"])
	assert.Equal(t, p.db.Name, document["database"])
	assert.Equal(t, pgtest.Runtime, document["role"])
	assert.Equal(t, "broken", document["status"])
	byName := map[string]map[string]any{}
	for _, one := range document["checks"].([]any) {
		check := one.(map[string]any)
		byName[check["check"].(string)] = check
		assert.Contains(t, []string{"ok", "note", "warning", "broken", "skipped"}, check["status"])
		assert.NotNil(t, check["findings"], "an empty list, not null")
		for _, f := range check["findings"].([]any) {
			assert.NotNil(t, f.(map[string]any)["commands"], "an empty list, not null")
		}
	}
	assert.Equal(t, map[string]any{
		"check": "schema", "status": "ok", "says": fmt.Sprintf("version %d, this binary's own", migrations.Version()), "findings": []any{},
	}, byName["schema"])
	assert.Equal(t, map[string]any{
		"check": "triggers", "status": "broken", "findings": []any{map[string]any{
			"severity": "broken",
			"says":     "1 trigger is disabled, tokenalert_ring on public.ai_usage_logs: without them inserts do not wake the worker, or corrections are found by reconcile only",
			"remedy":   "as the owner of ai_usage_logs; `tokenalert reconcile` then finds what they have missed:",
			"commands": []any{"ALTER TABLE public.ai_usage_logs ENABLE TRIGGER tokenalert_ring;"},
		}},
	}, byName["triggers"])
	assert.Equal(t, "warning", byName["lead"]["status"])
	assert.Equal(t, map[string]any{"check": "lag", "status": "skipped", "says": "not looked at: nobody leads", "findings": []any{}}, byName["lag"])
}

func TestDoctorWithoutADatabase(t *testing.T) {
	t.Parallel()
	p := &platform{t: t}
	for says, url := range map[string]string{
		"connection refused": "postgres://tokenalert:" + secret + "@127.0.0.1:1/cms",
		"does not exist":     withPassword(t, pgtest.Server(t).URLAs(pgtest.Runtime, "no_such_one"), secret),
	} {
		status, stdout := p.doctorWith([]string{"DATABASE_URL=" + url})
		assert.Equal(t, 2, status)
		assert.Contains(t, stdout, "✗ connection  DATABASE_URL does not lead to a database: ")
		assert.Contains(t, stdout, says)
		assert.Contains(t, stdout, "→ ")
		assert.Contains(t, stdout, "\n1 broken, 0 warnings, 0 notes\n")

		status, stdout = p.doctorWith([]string{"DATABASE_URL=" + url}, "-o", "json")
		assert.Equal(t, 2, status)
		var document jsonDiagnosis
		require.NoError(t, json.Unmarshal([]byte(stdout), &document))
		assert.Equal(t, "broken", document.Status)
		require.Len(t, document.Checks, 1)
		assert.Equal(t, "connection", document.Checks[0].Check)
	}

	// Not installed is broken too, and what cannot be looked at is said to be so.
	p.db = pgtest.New(t, pgtest.Host(host.CMS))
	status, stdout := p.doctor(pgtest.Owner)
	assert.Equal(t, 2, status)
	assert.Contains(t, stdout, "✗ schema                 tokenalert is not installed in database "+p.db.Name+"\n")
	assert.Contains(t, stdout, "- triggers               not looked at: tokenalert is not installed\n")
	assert.Contains(t, stdout, "\n1 broken, 0 warnings, ")
}

// TestDoctorOfABadEnvironment: status 1 would say that it had looked.
func TestDoctorOfABadEnvironment(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := typed(t, []string{"DATABASE_URL=postgres://x:" + secret + "@db.example.com:port/cms", "TOKENALERT_TIME_ZONE=Mars"}, "doctor")
	assert.Equal(t, 2, status)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "TOKENALERT_TIME_ZONE=Mars")
	assert.NotContains(t, stderr, secret)
}

// TestDoctorComparesZones with rules of this machine that are not the server's:
// those of Madrid by the name of Santiago.
func TestDoctorComparesZones(t *testing.T) {
	t.Parallel()
	const zones = "/usr/share/zoneinfo"
	rules, err := os.ReadFile(filepath.Join(zones, "Europe/Madrid"))
	if err != nil {
		t.Skip("SKIPPED: this machine has no time zones")
	}
	p := newPlatform(t)
	environment := append(databaseEnvironment(p.db.WorkerURLs()), "TOKENALERT_TIME_ZONE=America/Santiago")
	_, stdout := p.doctorWith(environment)
	assert.Contains(t, stdout, "✓ zone                   America/Santiago, by the same rules on the server and here\n")

	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "America"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "America/Santiago"), rules, 0o600))
	status, stdout := p.doctorWith(append(environment, "ZONEINFO="+folder))
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "! zone                   the server's rules of zone America/Santiago and this binary's differ on 400 of the next 400 days")
}

func TestDoctorHelpNamesTheStatuses(t *testing.T) {
	t.Parallel()
	_, stdout, _ := typed(t, nil, "doctor", "--help")
	for _, part := range []string{"Exit status: 0 all is well", "1 there are warnings", "2 something is broken", "--output"} {
		assert.Contains(t, strings.ReplaceAll(stdout, "\n", " "), part)
	}
}
