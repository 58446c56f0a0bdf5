package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/google/uuid"
	"github.com/hinshun/vt10x"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// reconcile runs the command under the runtime role and returns what it wrote.
func (p *platform) reconcile(status int, args ...string) (stdout, stderr string) {
	p.t.Helper()
	got, stdout, stderr := typed(p.t, databaseEnvironment(p.db.WorkerURLs()), append([]string{"reconcile"}, args...)...)
	require.Equal(p.t, status, got, "%s%s", stdout, stderr)
	assert.NotRegexp(p.t, "[\x1b\r]", stdout+stderr, "a pipe gets no control characters")
	return stdout, stderr
}

// unseen does to the rows or totals what no trigger sees.
func (p *platform) unseen(sql string, args ...any) {
	p.t.Helper()
	tx, err := p.admin.Begin(p.t.Context())
	require.NoError(p.t, err)
	_, err = tx.Exec(p.t.Context(), "SET LOCAL session_replication_role = replica")
	require.NoError(p.t, err)
	_, err = tx.Exec(p.t.Context(), sql, args...)
	require.NoError(p.t, err)
	require.NoError(p.t, tx.Commit(p.t.Context()))
}

func TestReconcileFindsAndMendsEachDifference(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql             string // $1 is the user, who has used 100
		counted, actual int
	}{
		"rows with the id of an old transaction": {`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id)
			SELECT user_id, organization_id, 60, xact_id FROM ai_usage_logs WHERE user_id = $1`, 100, 160},
		"a load with triggers switched off": {"UPDATE ai_usage_logs SET tokens_used = 850 WHERE user_id = $1", 100, 850},
		"rows deleted unseen":               {"DELETE FROM ai_usage_logs WHERE user_id = $1", 100, 0},
		"a total changed by hand":           {"UPDATE tokenalert.usage_periods SET tokens_used = 7 WHERE user_id = $1", 7, 100},
		"usage without a total":             {"DELETE FROM tokenalert.usage_periods WHERE user_id = $1", 0, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			user, other := p.user(1000), p.user(1000)
			w := p.leads()
			p.use(user, 100)
			p.use(other, 20)
			p.counted(user, 100)
			p.counted(other, 20)
			stdout, stderr := p.reconcile(0)
			assert.Regexp(t, `^compared 2 users with 2 rows in \S+: all totals agree\n$`, stdout)
			assert.Empty(t, stderr)

			p.unseen(tt.sql, user)
			line := regexp.MustCompile(`(?m)^` + user.String() + `  \d{4}-\d\d-01T00:00:00Z +(\d+) +(\d+) +([+-]\d+)$`)
			stdout, stderr = p.reconcile(1, "--dry-run")
			assert.Empty(t, stderr)
			found := line.FindStringSubmatch(stdout)
			require.NotNil(t, found, stdout)
			assert.Equal(t, []int{tt.counted, tt.actual, tt.actual - tt.counted}, numbers(t, found[1:]))
			assert.NotContains(t, stdout, other.String())
			assert.Contains(t, stdout, ": 1 difference; nothing was queued (--dry-run)\n")
			p.asleep()
			assert.Zero(t, ask[int](p, "SELECT count(*) FROM tokenalert.recounts"))

			stdout, stderr = p.reconcile(0)
			assert.Empty(t, stderr)
			assert.Regexp(t, line, stdout)
			assert.Contains(t, stdout, ": 1 difference, queued; the worker that leads counts anew within moments\n")
			p.eventually("SELECT coalesce(sum(tokens_used), 0) = $2 FROM tokenalert.usage_periods WHERE user_id = $1", "the total is not mended", user, tt.actual)
			stdout, _ = p.reconcile(0)
			assert.Contains(t, stdout, "all totals agree")
			if tt.actual >= 800 {
				assert.Equal(t, []int{80}, p.told(user))
			} else {
				assert.Empty(t, p.told(user))
			}
			w.terminate()
		})
	}
}

func numbers(t *testing.T, texts []string) []int {
	t.Helper()
	var list []int
	for _, text := range texts {
		var n int
		require.NoError(t, json.Unmarshal([]byte(strings.TrimPrefix(text, "+")), &n))
		list = append(list, n)
	}
	return list
}

func TestReconcileWhileNobodyLeads(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	stdout, stderr := p.reconcile(1)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, "no worker has counted yet")
	assert.Contains(t, stderr, "tokenalert run")

	user, waiting := p.user(1000), p.user(1000)
	w := p.leads()
	p.use(user, 100)
	p.use(waiting, 10)
	p.counted(user, 100)
	p.counted(waiting, 10)
	w.terminate()
	p.unseen("UPDATE ai_usage_logs SET tokens_used = 200 WHERE user_id = $1", user)
	p.exec("UPDATE ai_usage_logs SET tokens_used = 11 WHERE user_id = $1", waiting)
	stdout, _ = p.reconcile(0)
	assert.Contains(t, stdout, user.String())
	assert.Contains(t, stdout, "1 difference, queued; nobody leads, so it is counted anew once `tokenalert run` is started\nleft out 1 user whose correction waits")
	assert.Equal(t, "reconcile", ask[string](p, "SELECT cause FROM tokenalert.recounts WHERE user_id = $1", user))
	stdout, _ = p.reconcile(0)
	assert.Contains(t, stdout, "all totals agree\nleft out 2 users")
	w = p.leads()
	p.counted(user, 200)
	p.counted(waiting, 11)
	w.terminate()
}

func TestReconcileJSON(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	w := p.leads()
	p.use(user, 100)
	p.counted(user, 100)
	w.terminate()
	type document struct {
		Users, Rows, Budgets, Shares int
		LeftOut                      *int    `json:"left_out"`
		FullCount                    bool    `json:"full_count_pending"`
		Duration                     float64 `json:"duration_ms"`
		DryRun                       bool    `json:"dry_run"`
		Queued                       int
		Leader                       bool
		Differences                  []struct {
			UserID                      *uuid.UUID `json:"user_id"`
			OrganizationID              *uuid.UUID `json:"organization_id"`
			PeriodStart                 string     `json:"period_start"`
			Counted, Actual, Difference int
		}
	}
	read := func(status int, args ...string) document {
		t.Helper()
		stdout, stderr := p.reconcile(status, append(args, "--output", "json")...)
		assert.Empty(t, stderr)
		var d document
		decoder := json.NewDecoder(strings.NewReader(stdout))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&d), stdout)
		_, err := decoder.Token()
		require.ErrorIs(t, err, io.EOF, "one document")
		assert.Equal(t, 0, *d.LeftOut)
		return d
	}
	d := read(0)
	assert.Equal(t, 1, d.Users)
	assert.Equal(t, 1, d.Rows)
	assert.NotNil(t, d.Differences, "an empty list, not null")
	assert.Empty(t, d.Differences)
	assert.Positive(t, d.Duration)

	p.unseen("UPDATE ai_usage_logs SET tokens_used = 70")
	d = read(1, "--dry-run")
	assert.True(t, d.DryRun)
	assert.Zero(t, d.Queued)
	require.Len(t, d.Differences, 1)
	one := d.Differences[0]
	assert.Equal(t, &user, one.UserID)
	assert.Nil(t, one.OrganizationID)
	assert.Equal(t, []int{100, 70, -30}, []int{one.Counted, one.Actual, one.Difference})
	assert.Regexp(t, `^\d{4}-\d\d-01T00:00:00Z$`, one.PeriodStart)
	d = read(0)
	assert.False(t, d.DryRun)
	assert.False(t, d.Leader)
	assert.Equal(t, 1, d.Queued)
	assert.Equal(t, 1, ask[int](p, "SELECT count(*) FROM tokenalert.recounts"))

	p.exec("DELETE FROM tokenalert.recounts")
	p.exec("INSERT INTO tokenalert.policies (organization_id, budget) VALUES ($1, 1000)", p.org)
	p.exec("UPDATE tokenalert.budgets SET counted = true")
	p.exec("UPDATE tokenalert.usage_periods SET tokens_used = 70")
	d = read(1, "--dry-run")
	assert.Equal(t, []int{1, 1}, []int{d.Budgets, d.Shares})
	require.Len(t, d.Differences, 1)
	assert.Equal(t, &user, d.Differences[0].UserID)
	assert.Equal(t, &p.org, d.Differences[0].OrganizationID)
	p.exec("INSERT INTO tokenalert.budget_shares SELECT organization_id, since, $1, 70 FROM tokenalert.budgets", user)
	d = read(0)
	require.Len(t, d.Differences, 1)
	assert.Nil(t, d.Differences[0].UserID, "the sum of its shares")
	assert.Equal(t, &p.org, d.Differences[0].OrganizationID)
	assert.Equal(t, 1, d.Queued)

	p.exec("TRUNCATE ai_usage_logs")
	stdout, _ := p.reconcile(1)
	assert.Equal(t, "nothing was compared: a full count is due, which corrects every total\n", stdout)
}

// Of budgets it says whose, and the worker mends them.
func TestReconcileFindsAndMendsBudgets(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	w := p.leads()
	p.use(user, 100)
	p.exec("INSERT INTO tokenalert.policies (organization_id, budget) VALUES ($1, 1000)", p.org)
	p.eventually("SELECT counted FROM tokenalert.budgets", "the budget is not counted")
	p.asleep()
	stdout, _ := p.reconcile(0)
	assert.Regexp(t, `^compared 1 user and 1 share of 1 budget with 1 row in \S+: all totals agree\n$`, stdout)
	p.unseen("UPDATE tokenalert.budget_shares SET tokens_used = 7")
	stdout, _ = p.reconcile(0)
	assert.Regexp(t, `^USER +BUDGET OF +PERIOD START`, stdout)
	assert.Regexp(t, `(?m)^`+user.String()+`  `+p.org.String()+`  \S+ +7 +100 +\+93$`, stdout)
	assert.Regexp(t, `(?m)^all shares {26}  `+p.org.String()+`  \S+ +100 +7 +-93$`, stdout)
	assert.Contains(t, stdout, ": 2 differences, queued;")
	p.eventually("SELECT count(*) = 0 FROM tokenalert.recounts", "nobody mends them")
	stdout, _ = p.reconcile(0)
	assert.Contains(t, stdout, "all totals agree")
	assert.Equal(t, []int{100, 100}, []int{
		ask[int](p, "SELECT tokens_used::integer FROM tokenalert.budget_shares"), ask[int](p, "SELECT tokens_used::integer FROM tokenalert.budget_periods"),
	})
	w.terminate()
}

// More than are queued at a time.
func TestReconcileManyDifferences(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.leads().terminate()
	p.exec(`INSERT INTO users (id, organization_id, email, password_hash, full_name)
		SELECT gen_random_uuid(), $1, g || '@example.org', 'none', 'Ada' FROM generate_series(1, 2500) AS g`, p.org)
	p.exec("DELETE FROM tokenalert.recounts")
	p.unseen("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, xact_id) SELECT id, organization_id, 5, NULL FROM users")
	stdout, _ := p.reconcile(0)
	assert.Equal(t, 1, strings.Count(stdout, "PERIOD START"))
	assert.Equal(t, 2500, strings.Count(stdout, "-01T00:00:00Z  "))
	assert.Contains(t, stdout, ": 2,500 differences, queued;")
	assert.Equal(t, 2500, ask[int](p, "SELECT count(DISTINCT user_id) FROM tokenalert.recounts"))
}

func TestReconcileNamesWhatItLacks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		role, sql string
		says      []string
	}{
		"no grant at all":         {pgtest.Writer, "SELECT", []string{"role host_writer lacks a privilege", "tokenalert migrate grant host_writer"}},
		"a column":                {pgtest.Runtime, "REVOKE SELECT (created_at) ON ai_usage_logs FROM " + pgtest.Runtime, []string{"permission denied for table ai_usage_logs", "tokenalert migrate grant " + pgtest.Runtime}},
		"the list of corrections": {pgtest.Runtime, "REVOKE SELECT ON tokenalert.recounts FROM " + pgtest.Runtime, []string{"permission denied for table recounts", "tokenalert migrate grant " + pgtest.Runtime}},
		"another cluster's chain": {pgtest.Runtime, "UPDATE tokenalert.ticks SET system_identifier = system_identifier + 1", []string{"another PostgreSQL cluster"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			p.leads().terminate()
			p.exec(tt.sql)
			for _, args := range [][]string{{"reconcile"}, {"reconcile", "--dry-run", "--output=json"}} {
				status, stdout, stderr := typed(t, []string{"DATABASE_URL=" + withPassword(t, p.db.URLAs(tt.role), secret)}, args...)
				assert.Equal(t, 1, status)
				for _, says := range tt.says {
					assert.Contains(t, stderr, says)
				}
				assert.Empty(t, stdout)
				assert.NotContains(t, stderr, secret)
			}
		})
	}
	t.Run("no migration", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, pgtest.Host(host.CMS))
		status, _, stderr := typed(t, databaseEnvironment(db.WorkerURLs()), "reconcile")
		assert.Equal(t, 1, status)
		assert.Contains(t, stderr, "tokenalert migrate up")
	})
}

// holdReconcile has comparisons over the connection string wait until release.
func (p *platform) holdReconcile() (connection string, release func()) {
	p.t.Helper()
	connection, hold, release := p.db.HoldReconcile(p.t)
	hold()
	return connection, release
}

func (p *platform) awaitHeld() {
	p.t.Helper()
	p.eventually(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'tokenalert reconcile' AND wait_event = 'PgSleep')`, "no comparison is held")
}

func TestReconcileStartsAnewByItself(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := p.user(1000)
	w := p.leads()
	p.use(user, 100)
	p.counted(user, 100)
	w.terminate()
	connection, release := p.holdReconcile()
	command := startProcess(t, []string{"DATABASE_URL=" + connection}, "reconcile")
	p.awaitHeld()
	p.exec("VACUUM FULL ai_usage_logs")
	release()
	assert.Equal(t, 0, command.wait())
	assert.Contains(t, command.stdout.String(), "compared 1 user with 1 row")
	var line map[string]any
	require.NoError(t, json.Unmarshal([]byte(command.stderr.String()), &line), "one line: %s", &command.stderr)
	assert.Equal(t, string(worker.EventReconcileRepeated), line["event"])
}

// Stopped in the middle it has queued nothing, says so, and leaves no session.
func TestReconcileInterrupted(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			user := p.user(1000)
			w := p.leads()
			p.use(user, 100)
			p.counted(user, 100)
			w.terminate()
			p.unseen("UPDATE ai_usage_logs SET tokens_used = 70")
			connection, _ := p.holdReconcile()
			command := startProcess(t, []string{"DATABASE_URL=" + connection}, "reconcile")
			p.awaitHeld()
			command.signal(signal)
			assert.Equal(t, 1, command.wait())
			assert.Equal(t, "tokenalert: interrupted by "+signal.String()+"; nothing was queued\n", command.stderr.String())
			assert.Empty(t, command.stdout.String())
			assert.Zero(t, ask[int](p, "SELECT count(*) FROM tokenalert.recounts"))
			p.eventually("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tokenalert reconcile')",
				"its session goes on")
		})
	}
}

// terminal runs a command whose standard error is a terminal, until meanwhile
// returns true for what it has shown, calls then, and returns its status, its
// standard output and all that the terminal was sent.
func (p *platform) terminal(environment []string, meanwhile func(shown string) bool, then func(*os.Process), args ...string) (int, string, string) {
	p.t.Helper()
	cmd := exec.Command(binaryPath(p.t), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, environment...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	master, tty, err := pty.Open()
	require.NoError(p.t, err)
	require.NoError(p.t, pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 100}))
	cmd.Stderr = tty
	require.NoError(p.t, cmd.Start())
	require.NoError(p.t, tty.Close())
	var shown output
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&shown, master) // ends with EIO once nobody has the terminal open
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails where it has ended
		<-read
		_ = master.Close()
	})
	eventually(p.t, func() bool { return meanwhile(shown.String()) }, "the terminal does not show it")
	then(cmd.Process)
	_ = cmd.Wait() // the status is in ProcessState
	<-read
	return cmd.ProcessState.ExitCode(), stdout.String(), shown.String()
}

func TestReconcileOnATerminal(t *testing.T) {
	t.Parallel()
	bar := regexp.MustCompile(`comparing \d+% \[[=>-]+\] \d+ rows, \d+ rows/s, \d+s left`)
	for name, tt := range map[string]struct {
		environment []string
		bar         bool
	}{
		"a terminal":      {[]string{"TERM=xterm-256color"}, true},
		"without colours": {[]string{"TERM=xterm-256color", "NO_COLOR=1"}, true},
		"a dumb one":      {[]string{"TERM=dumb"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t)
			user := p.user(1000)
			w := p.leads()
			p.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, 0 FROM generate_series(1, 30000)", user, p.org)
			p.use(user, 100)
			p.counted(user, 100)
			w.terminate()
			p.unseen("UPDATE tokenalert.usage_periods SET tokens_used = 7")
			connection, release := p.holdReconcile()
			status, stdout, shown := p.terminal(append(tt.environment, "DATABASE_URL="+connection),
				func(shown string) bool { return !tt.bar || bar.MatchString(shown) },
				func(*os.Process) {
					p.awaitHeld()
					release()
				}, "reconcile", "--dry-run")
			assert.Equal(t, 1, status, shown)
			assert.Contains(t, stdout, user.String())
			assert.Contains(t, stdout, "1 difference; nothing was queued")
			assert.NotRegexp(t, "[\x1b\r]|comparing", stdout)
			assert.NotRegexp(t, "\x1b\\[[0-9;]*m", shown, "no colour")
			if !tt.bar {
				assert.Empty(t, shown)
				return
			}
			assert.Empty(t, inTheEnd(shown), "the bar is gone: %q", shown)
			assert.NotContains(t, shown, "\x1b[?25l", "the cursor is not hidden, so nobody has to show it again")
		})
	}
}

// A signal takes the bar away as well.
func TestReconcileInterruptedOnATerminal(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.leads().terminate()
	connection, _ := p.holdReconcile()
	status, stdout, shown := p.terminal([]string{"TERM=xterm", "DATABASE_URL=" + connection},
		func(shown string) bool { return strings.Contains(shown, "comparing 0%") },
		func(command *os.Process) {
			p.awaitHeld()
			require.NoError(t, command.Signal(syscall.SIGINT))
		}, "reconcile")
	assert.Equal(t, 1, status)
	assert.Empty(t, stdout)
	assert.Equal(t, "tokenalert: interrupted by interrupt; nothing was queued", inTheEnd(shown), "%q", shown)
}

// inTheEnd is what a terminal shows after all that it was sent.
func inTheEnd(sent string) string {
	emulator := vt10x.New(vt10x.WithSize(100, 24))
	_, _ = emulator.Write([]byte(sent)) // it takes all that is whole
	return strings.TrimSpace(emulator.String())
}
