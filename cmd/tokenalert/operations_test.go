package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/internal/transcript"
	"tokenalert/store"
	"tokenalert/worker"
)

// operations is docs/operations.md.
func operations(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	return string(text)
}

// TestOperations types docs/operations.md into a shell, from the first connection
// to the last trace: what it leaves is the database as it was, in another cluster.
func TestOperations(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"psql", "pg_dump", "pg_restore"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("SKIPPED: the page's commands need " + program)
		}
	}
	page := operations(t)
	for _, block := range regexp.MustCompile("(?ms)^```([^\n]+)\n(.*?)^```\n").FindAllStringSubmatch(page, -1) {
		assert.Contains(t, []string{"sh", "sh cluster", "text"}, block[1])
		assert.Equal(t, block[1] == "sh cluster", strings.Contains(block[2], "kubectl"), "typed, or for a cluster:\n%s", block[2])
	}

	from, to := pgtest.StartServer(t, nil), pgtest.StartServer(t, nil)
	was := from.New(t, pgtest.Host(host.CMSWithTrigger))
	becomes, untouched := to.New(t, empty), to.New(t, empty)
	other := from.New(t, pgtest.Host(host.LMS))
	untouched.Restore(t, pgtest.Owner, was.Dump(t, "--no-owner", "--no-privileges")) // skips where pg_dump is older than the server
	for _, db := range []*pgtest.DB{was, becomes} {
		_, err := db.Conn(t).Exec(t.Context(), "ALTER ROLE "+pgtest.Owner+" CREATEROLE; GRANT pg_signal_backend TO "+pgtest.Owner)
		require.NoError(t, err)
	}
	owner := was.ConnAs(t, pgtest.Owner)
	org, err := host.NewOrganization(t.Context(), owner, "Example")
	require.NoError(t, err)
	_, err = host.NewUser(t.Context(), owner, host.User{Organization: org, Limit: new(1000)}) // or the doctor misses one
	require.NoError(t, err)
	demandPassword(t, was, "tokenalert")
	demandPassword(t, other, "tokenalert_bell")

	for shown, here := range map[string]string{
		"postgres://platform:first-secret@db.example.com/cms":     was.OwnerURL(),
		"postgres://platform:first-secret@new.example.com/cms":    becomes.OwnerURL(),
		"postgres://tokenalert:second-secret@db.example.com/cms":  withPassword(t, was.URLAs("tokenalert"), "second-secret"),
		"postgres://tokenalert:third-secret@db.example.com/cms":   withPassword(t, was.URLAs("tokenalert"), "third-secret"),
		"postgres://tokenalert:second-secret@new.example.com/cms": becomes.URLAs("tokenalert"),

		"postgres://learning:fourth-secret@lms.example.com/lms":         other.OwnerURL(),
		"postgres://tokenalert_bell:fifth-secret@lms.example.com/lms":   withPassword(t, other.URLAs("tokenalert_bell"), "fifth-secret"),
		"postgres://tokenalert_bell:seventh-secret@lms.example.com/lms": withPassword(t, other.URLAs("tokenalert_bell"), "seventh-secret"),
	} {
		require.Contains(t, page, shown)
		page = strings.ReplaceAll(page, shown, here)
	}
	typing, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	folder := t.TempDir()
	played, err := transcript.Play(typing, page, folder, append(os.Environ(),
		"PATH="+filepath.Dir(binaryPath(t))+":"+os.Getenv("PATH"), "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0"))
	require.NoError(t, err)
	var answers strings.Builder
	for _, b := range played {
		answers.WriteString(b.Answer + "\n")
	}
	for _, says := range []string{"the schema is up to date", "all is well", "no such deliveries", "0 deliveries tried again", "the chain of ticks comes from another cluster", "down 00001"} {
		assert.Contains(t, answers.String(), says)
	}
	schema := func(db *pgtest.DB) string { return withoutKey(db.Dump(t, "--schema-only", "--no-privileges")) }
	assert.Equal(t, schema(untouched), schema(becomes), "what is left")
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, left, "files")
}

// TestTheGrantInAnotherDatabase has a role that docs/operations.md makes copy
// notifications, and sees that it may do no more.
func TestTheGrantInAnotherDatabase(t *testing.T) {
	t.Parallel()
	granted := regexp.MustCompile(`(?s)GRANT USAGE ON SCHEMA public TO tokenalert_bell;.*? TO tokenalert_bell"`).FindString(operations(t))
	require.NotEmpty(t, granted)
	other := pgtest.New(t, pgtest.Host(host.LMS))
	role := other.Name + "_bell"
	admin := other.Conn(t)
	exec := func(sql string) {
		t.Helper()
		_, err := admin.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
	exec("CREATE ROLE " + role + " LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	t.Cleanup(func() {
		_, _ = admin.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role)
	})

	p := newPlatform(t)
	user := p.user(1000)
	w := p.leads("TOKENALERT_NOTIFICATIONS_URL=" + other.URLAs(role))
	p.use(user, 850)
	w.await(worker.EventDeliveryRetried, 1)
	assert.Contains(t, w.stdout.String(), "permission denied for table notifications")
	p.eventually("SELECT state = 'retryable' FROM tokenalert.river_job", "River does not note it")
	exec(strings.ReplaceAll(strings.TrimSuffix(granted, `"`), "tokenalert_bell", role))
	exit, _, stderr := typed(t, databaseEnvironment(p.db.WorkerURLs()), "deliveries", "retry", ask[string](p, "SELECT id::text FROM tokenalert.river_job"))
	require.Equal(t, 0, exit, stderr)
	w.await(worker.EventDeliveryCompleted, 1)
	var title string
	require.NoError(t, admin.QueryRow(t.Context(), "SELECT title FROM notifications WHERE user_id = $1 AND NOT is_read AND created_at > now() - interval '1 minute'", user).Scan(&title))
	assert.Equal(t, ask[string](p, "SELECT title FROM notifications"), title)

	conn, err := pgx.Connect(t.Context(), other.URLAs(role))
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	for _, sql := range []string{
		"SELECT title FROM notifications", "UPDATE notifications SET is_read = true", "DELETE FROM notifications",
		"INSERT INTO notifications (organization_id, user_id, title, message, is_read) VALUES (gen_random_uuid(), gen_random_uuid(), '', '', true)",
		"SELECT id FROM users",
	} {
		_, err := conn.Exec(t.Context(), sql)
		assert.Equal(t, "42501", store.SQLState(err), sql)
	}
}

// withoutKey leaves out of a dump the key that newer releases of pg_dump make up
// for each.
func withoutKey(dump string) string {
	return regexp.MustCompile(`(?m)^\\(un)?restrict .*\n`).ReplaceAllString(dump, "")
}

// TestRetention deletes what docs/operations.md says is history, and sees that
// only that is gone and that nobody is told anything for it.
func TestRetention(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("SKIPPED: the page's commands need psql")
	}
	_, section, found := strings.Cut(operations(t), "\n## Retention\n")
	require.True(t, found)
	command := regexp.MustCompile("(?ms)^```sh\n(.*?)^```\n").FindStringSubmatch(section)
	require.NotNil(t, command)

	p := newPlatform(t)
	user := p.user(1000)
	used := func(at time.Time, tokens int) {
		t.Helper()
		p.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at) VALUES ($1, $2, $3, $4)", user, p.org, tokens, at)
	}
	now := time.Now().UTC()
	ages := []time.Time{now.AddDate(0, -16, 0), now.AddDate(0, -12, 0), now}
	for i, age := range ages {
		p.db.SetNow(t, age)
		if i == 0 {
			p.exec("INSERT INTO tokenalert.policies (organization_id, budget) VALUES ($1, 1000)", p.org)
		}
		w := p.leads()
		p.eventually("SELECT counted FROM tokenalert.budgets", "the budget is not counted")
		used(age, 850)
		w.await(worker.EventAlertSent, 1)
		w.await(worker.EventBudgetSuppressed, 1) // nobody is an admin
		w.terminate()
	}
	require.Equal(t, []int{80, 80, 80}, p.told(user))

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "owner-url"), []byte(p.db.OwnerURL()+"\n"), 0o600))
	shell := exec.CommandContext(t.Context(), "sh", "-euc", command[1]) //nolint:gosec // what the page shows
	shell.Dir = dir
	out, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, 2, ask[int](p, "SELECT count(*)::integer FROM tokenalert.usage_periods"))
	assert.Equal(t, 2, ask[int](p, "SELECT count(*)::integer FROM token_limit_alerts"))
	for _, table := range []string{"shares", "periods", "alerts"} {
		assert.Equal(t, 2, ask[int](p, "SELECT count(*)::integer FROM tokenalert.budget_"+table), table)
	}

	w := p.leads()
	used(ages[0], 100) // late, in the period that was forgotten
	used(now, 100)
	w.await(worker.EventAlertSent, 1)
	w.terminate()
	assert.Len(t, w.log(worker.EventAlertSent), 1)
	assert.Empty(t, w.log(worker.EventBudgetSent))
	assert.Equal(t, 950, ask[int](p, "SELECT tokens_used::integer FROM tokenalert.usage_periods ORDER BY period_start LIMIT 1"))
	assert.Equal(t, "90 true", ask[string](p, `SELECT string_agg(alert_threshold || ' ' || alert_sent, ',')
		FROM token_limit_alerts WHERE user_id = $1 AND alert_sent AND sent_at >= $2 AND alert_threshold > 80`, user, now))
}
