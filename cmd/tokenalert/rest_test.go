package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// What a replica may cost while there is nothing to do.
const (
	restingLeader   = 30 // statements a minute
	restingFollower = 90
	residentMiB     = 28 // just under 30 MB
)

// secondRole is for the follower, so that the server's log and its list of
// sessions tell the two apart.
const secondRole = "tokenalert_second"

// The one test that takes its time: it measures a rate.
func TestAtRest(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{
		"logging_collector": "on", "log_filename": "statements", "log_statement": "all", "log_line_prefix": "%u|%a|",
	})
	p := platformOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	_, err := p.admin.Exec(t.Context(), "CREATE ROLE "+secondRole+" LOGIN")
	require.NoError(t, err)
	migrator, err := store.NewMigrator(p.db.OwnerURL())
	require.NoError(t, err)
	defer migrator.Close()
	require.NoError(t, migrator.Grant(t.Context(), secondRole))

	user := p.user(100_000)
	leader := p.leads()
	follower := startProcess(t, runEnvironment(p.db.URLs(secondRole)), "run")
	require.Contains(t, follower.awaitReady(), "follower")
	for range 300 {
		p.use(user, 300)
	}
	p.counted(user, 90_000)
	leader.await(worker.EventAlertSent, 1)
	polls := -1.0
	eventually(t, func() bool { // at rest: it does not look for work between two looks of ours
		time.Sleep(250 * time.Millisecond)
		before := polls
		polls = metric(t, leader, "tokenalert_polls_total")
		return polls == before
	}, "the leader does not come to rest")

	log := filepath.Join(ask[string](p, "SHOW data_directory"), "log", "statements")
	const measured = 20 * time.Second
	before, err := os.ReadFile(log)
	require.NoError(t, err)
	time.Sleep(measured)
	after, err := os.ReadFile(log)
	require.NoError(t, err)
	sent := map[string]int{}
	var text strings.Builder
	for line := range strings.Lines(string(after[len(before):])) {
		role, rest, _ := strings.Cut(line, "|")
		// A simple query is a "statement", one of the extended protocol an
		// "execute".
		if strings.Contains(rest, "LOG:  statement:") || strings.Contains(rest, "LOG:  execute ") {
			sent[role]++
			fmt.Fprintln(&text, strings.TrimSpace(line))
		}
	}
	perMinute := func(role string) int { return sent[role] * int(time.Minute/measured) }
	assert.Positive(t, sent[pgtest.Runtime])
	assert.Positive(t, sent[secondRole])
	assert.LessOrEqual(t, perMinute(pgtest.Runtime), restingLeader, "statements a minute from the leader:\n%s", &text)
	assert.LessOrEqual(t, perMinute(secondRole), restingFollower, "statements a minute from the follower:\n%s", &text)
	assert.NotContains(t, text.String(), "-- ping", "a statement that asks for nothing")
	t.Logf("statements a minute: leader %d, follower %d", perMinute(pgtest.Runtime), perMinute(secondRole))

	connections := func(role string) map[string]int {
		rows, err := p.admin.Query(t.Context(), `SELECT regexp_replace(application_name, '^(tokenalert lead) .*', '\1'), count(*)::integer FROM pg_stat_activity WHERE usename = $1 GROUP BY 1`, role)
		require.NoError(t, err)
		defer rows.Close()
		found := map[string]int{}
		for rows.Next() {
			var name string
			var n int
			require.NoError(t, rows.Scan(&name, &n))
			found[name] = n
		}
		return found
	}
	of := connections(pgtest.Runtime)
	assert.Equal(t, 1, of["tokenalert lead"])
	assert.Equal(t, 1, of["tokenalert listen"])
	assert.LessOrEqual(t, of["tokenalert tick"], 2)
	assert.LessOrEqual(t, len(of), 3, "%v", of)
	of = connections(secondRole)
	assert.Equal(t, 1, of["tokenalert lead"])
	assert.LessOrEqual(t, of["tokenalert tick"], 1)
	assert.LessOrEqual(t, len(of), 2, "%v", of)

	for name, replica := range map[string]*process{"leader": leader, "follower": follower} {
		resident := residentKiB(t, replica)
		assert.Less(t, resident, residentMiB*1024, "KiB resident, %s", name)
		t.Logf("%s: %.1f MiB resident", name, float64(resident)/1024)
	}
	follower.terminate()
	leader.terminate()
}

// residentKiB is what /proc says that a process has in memory.
func residentKiB(t *testing.T, p *process) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: memory is looked up in /proc")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib int
			_, err := fmt.Sscanf(value, "%d kB", &kib)
			require.NoError(t, err)
			return kib
		}
	}
	require.FailNow(t, "no VmRSS")
	return 0
}
