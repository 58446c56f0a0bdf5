package main

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
)

func TestWrongUseIsStatus2(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, says string }{
		{"frobnicate", `unknown command "frobnicate"`},
		{"--frobnicate", "unknown flag: --frobnicate"},
		{"run --frobnicate", "unknown flag: --frobnicate"},
		{"run now", "tokenalert run --help"},
		{"migrate sideways", "tokenalert migrate --help"},
		{"migrate grant", "tokenalert migrate grant --help"},
		{"migrate grant one two", "tokenalert migrate grant --help"},
		{"migrate up --lock-patience=soon", "--lock-patience"},
		{"explain", "tokenalert explain --help"},
		{"explain ana", `"ana" is neither the id of a user (a UUID) nor an email address`},
		{"explain ana@example.org bob@example.org", "tokenalert explain --help"},
		{"explain ana@example.org --output yaml", "must be one of text, json"},
		{"preview now", "tokenalert preview --help"},
		{"preview --output yaml", "must be one of text, json"},
		{"preview --language fr", `--language "fr": must be one of es, en, pt`},
		{"preview --threshold 0", "--threshold 0: must be from 1 to 1000"},
		{"preview --limit 0", "--limit 0: must be from 1 to 9223372036854775"},
		{"preview --used 799 --limit 1000", "--used 799: must be at least 800, which is 80 % of --limit 1000; below it nobody is told"},
		{"preview --used -1", "--used -1: must be at least 80000"},
		{"preview --threshold 90 --used 8 --limit 9", "--used 8: must be at least 9, which is 90 % of --limit 9"},
		{"preview --channel fax", "must be one of notification, email, webhook"},
		{"preview --about Ana", "--about goes with --kind admin"},
		{"preview --kind admin --channel webhook", "--kind admin does not go with --channel webhook"},
		{"deliveries list --organization x", "--organization \"x\" is not the id of an organization"},
		{"preview --html", "--html goes with --channel email"},
		{"preview --channel email --html --output json", "--html and --output are two ways to print"},
		{"preview --channel email --html", "--html prints one message: say which by --language, and --threshold or --used"},
		{"test-send", "say --channel email, webhook or notification"},
		{"test-send email", "tokenalert test-send --help"},
		{"test-send --channel fax", "must be one of notification, email, webhook"},
		{"test-send --channel email", "--channel email needs --to, an e-mail address"},
		{"test-send --channel email --to ana", "--to is not an e-mail address"},
		{"test-send --channel email --to a@example.org --user x", "--user and --organization do not go with --channel email"},
		{"test-send --channel webhook --to a@example.org", "--to goes with --channel email"},
		{"test-send --channel webhook --user ana", `--user "ana" is not an id (a UUID)`},
		{"test-send --channel webhook --threshold 0", "--threshold 0: must be from 1 to 1000"},
		{"test-send --channel webhook --language fr", "must be one of es, en, pt"},
		{"test-send --channel notification", "--channel notification needs --user and --organization"},
		{"deliveries lst", "did you mean list?"},
		{"deliveries list now", "tokenalert deliveries list --help"},
		{"deliveries list --state lost", "must be one of waiting, running, retrying, delivered, failed"},
		{"deliveries list --channel fax", "must be one of notification, email, webhook"},
		{"deliveries list --user ana", `--user "ana" is not the id of a user (a UUID)`},
		{"deliveries list --limit -1", "--limit -1 must be 0 or more"},
		{"deliveries retry", "name deliveries by their ids, or say --failed"},
		{"deliveries retry one", `"one" is not the id of a delivery, which is a number`},
		{"deliveries retry 1 --failed", "ids and --failed are two ways to say which"},
		{"deliveries retry 1 --channel email", "--channel goes with --failed"},
		{"reconcile now", "tokenalert reconcile --help"},
		{"reconcile --output yaml", "must be one of text, json"},
		{"demo --for 0s", "--for"},
		{"doctor now", "tokenalert doctor --help"},
		{"doctor --output yaml", "must be one of text, json"},
		{"demo --for 3s --rate 0 --users 0", "--users"},
		{"demo --rate NaN", "--rate"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			status, stdout, stderr := typed(t, nil, strings.Fields(tt.args)...)
			assert.Equal(t, 2, status)
			assert.Contains(t, stderr, tt.says)
			assert.Empty(t, stdout)
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := typed(t, nil, "version")
	assert.Equal(t, 0, status)
	assert.Empty(t, stderr)
	assert.True(t, strings.HasPrefix(stdout, "tokenalert "+stampedVersion+" (commit "+stampedCommit+", schema "+
		strconv.FormatInt(migrations.Version(), 10)+", go"), stdout)

	for _, args := range [][]string{nil, {"--help"}, {"run", "--help"}, {"migrate", "--help"}, {"explain", "--help"}, {"demo", "--help"}, {"preview", "--help"}, {"test-send", "--help"}, {"deliveries", "--help"}, {"deliveries", "list", "--help"}, {"deliveries", "retry", "--help"}, {"doctor", "--help"}, {"reconcile", "--help"}} {
		status, stdout, stderr = typed(t, nil, args...)
		assert.Equal(t, 0, status)
		assert.Contains(t, stdout, "Usage:")
		assert.Empty(t, stderr)
	}
}

func TestPrintConfigMasks(t *testing.T) {
	t.Parallel()
	environment := []string{
		"DATABASE_URL=postgres://tokenalert:" + secret + "@db.example.com/cms",
		"TOKENALERT_LISTEN_URL=host=direct.example.com user=tokenalert password=" + secret,
		"PGPASSWORD=" + secret,
		"TOKENALERT_THRESHOLDS=50,75",
	}
	status, stdout, stderr := typed(t, environment, "run", "--print-config")
	assert.Equal(t, 0, status)
	assert.Empty(t, stderr)
	assert.NotContains(t, stdout, secret)
	for _, line := range []string{"TOKENALERT_THRESHOLDS=50,75\n", "TOKENALERT_BELL_LEASE=30s\n", "TOKENALERT_TIME_ZONE=UTC\n", "PGPASSWORD="} {
		assert.Contains(t, stdout, line)
	}
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(line, databaseVar+"=") {
			assert.Contains(t, line, "db.example.com/cms")
		}
	}
}

func TestBadSettingsAreReportedInOneGo(t *testing.T) {
	t.Parallel()
	environment := []string{
		"DATABASE_URL=postgres://tokenalert:" + secret + "@db.example.com:port/cms",
		"TOKENALERT_TIME_ZONE=America/Nowhere",
		"TOKENALERT_BELL_LEASE=5s",
		"TOKENALERT_LEAD_PING=often",
		"TOKENALERT_TRESHOLDS=" + secret,
	}
	for _, args := range [][]string{{"run"}, {"run", "--print-config"}, {"migrate", "up"}} {
		status, stdout, stderr := typed(t, environment, args...)
		assert.Equal(t, 1, status)
		for _, says := range []string{
			"TOKENALERT_TRESHOLDS is not a setting; the nearest is TOKENALERT_THRESHOLDS",
			"DATABASE_URL", "TOKENALERT_TIME_ZONE=America/Nowhere", "TOKENALERT_BELL_LEASE=5s must be more than twice",
			"TOKENALERT_LEAD_PING=often",
		} {
			assert.Contains(t, stderr, says)
		}
		assert.NotContains(t, stdout+stderr, secret)
		assert.NotContains(t, stdout, "worker.started")
	}
}

func TestMigrateCommands(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Host(host.CMSWithTrigger))
	owner := []string{"DATABASE_URL=" + db.OwnerURL()}
	migrate := func(want int, args ...string) (string, string) {
		t.Helper()
		status, stdout, stderr := typed(t, owner, append([]string{"migrate"}, args...)...)
		require.Equal(t, want, status, "%v: %s%s", args, stdout, stderr)
		return stdout, stderr
	}

	_, stderr := migrate(1, "grant", pgtest.Runtime)
	assert.Contains(t, stderr, "tokenalert migrate up")
	stdout, _ := migrate(0, "status")
	assert.Equal(t, int(migrations.Version()), strings.Count(stdout, "pending"))
	stdout, _ = migrate(0, "up")
	assert.Contains(t, stdout, "the schema is up to date")
	assert.Contains(t, stdout, "cached plan must not change result type")
	stdout, _ = migrate(0, "up")
	assert.Equal(t, "the schema is up to date\n", stdout, "again, it does nothing")
	stdout, _ = migrate(0, "status")
	assert.NotContains(t, stdout, "pending")
	_, stderr = migrate(1, "grant", "nobody_at_all")
	assert.Contains(t, stderr, `role "nobody_at_all" does not exist`)
	stdout, _ = migrate(0, "grant", pgtest.Runtime)
	assert.Equal(t, "the role "+pgtest.Runtime+" can run tokenalert\n", stdout)
	w := startProcess(t, runEnvironment(db.WorkerURLs()), "run")
	w.awaitReady()
	w.terminate()

	_, stderr = migrate(2, "down") // standard input is /dev/null
	assert.Contains(t, stderr, "--yes")
	stdout, _ = migrate(0, "status")
	assert.NotContains(t, stdout, "pending", "nothing was taken down")
	migrate(0, "down", "--yes")
	stdout, _ = migrate(0, "status")
	assert.Equal(t, int(migrations.Version()), strings.Count(stdout, "pending"))
	stdout, _ = migrate(0, "down", "--yes")
	assert.Contains(t, stdout, "not installed")
	migrate(0, "up")

	status, _, stderr := typed(t, databaseEnvironment(db.WorkerURLs()), "migrate", "up")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "does not own table ai_usage_logs")
}
