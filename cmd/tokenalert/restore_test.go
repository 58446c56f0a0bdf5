package main

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// empty is a database into which a dump is restored.
var empty = pgtest.Template{Name: "empty", Build: func(context.Context, string) error { return nil }}

// TestADumpInAYoungerCluster: transaction ids mean nothing there. A worker
// refuses to count until `migrate up` has started the chain anew; then nobody is
// told again what was told, and whoever crosses is.
func TestADumpInAYoungerCluster(t *testing.T) {
	t.Parallel()
	from := newPlatform(t)
	one, all, none := from.user(1000), from.user(1000), from.user(1000)
	first := from.leads()
	from.use(one, 850)
	from.use(all, 1000)
	from.use(none, 500)
	from.counted(one, 850)
	from.counted(all, 1000)
	from.counted(none, 500)
	first.terminate()
	told := map[uuid.UUID][]string{one: from.ids(one), all: from.ids(all), none: from.ids(none)}
	require.Len(t, told[one], 1)
	require.Len(t, told[all], 3)

	in := pgtest.StartServer(t, nil)
	for name, kind := range map[string]struct {
		dump []string
		as   string // who restores
	}{
		"with owners and privileges":              {as: "postgres"},
		"with owners and privileges, custom":      {dump: []string{"--format=custom"}, as: "postgres"},
		"without privileges":                      {dump: []string{"--no-privileges"}, as: "postgres"},
		"without owners and privileges, by owner": {dump: []string{"--no-owner", "--no-privileges"}, as: pgtest.Owner},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := in.New(t, empty)
			db.Restore(t, kind.as, from.db.Dump(t, kind.dump...))
			owner := databaseEnvironment(db.URLs(pgtest.Owner))

			// Without privileges a worker does not even see the chain.
			lacks := "another PostgreSQL cluster"
			if len(kind.dump) > 0 && kind.dump[len(kind.dump)-1] == "--no-privileges" {
				lacks = "tokenalert migrate grant"
			}
			refused(t, withPassword(t, db.URLAs(pgtest.Runtime), secret), lacks)
			status, stdout, stderr := typed(t, owner, "migrate", "up")
			require.Equal(t, 0, status, stderr)
			assert.Contains(t, stdout+stderr, "another cluster")

			p := &platform{t: t, db: db, org: from.org}
			p.connect()
			p.exec("GRANT INSERT ON ai_usage_logs TO " + pgtest.Writer) // which is the host's to give
			w := p.leads()
			p.settled()
			for user, before := range told {
				assert.Equal(t, before, p.ids(user), "nobody is told again")
			}
			p.use(one, 50)
			p.use(none, 300)
			p.counted(one, 900)
			p.counted(none, 800)
			p.settled()
			assert.Equal(t, []int{80, 90}, p.told(one))
			assert.Equal(t, []int{80}, p.told(none))
			w.terminate() // what has committed is logged by then
			assert.Len(t, w.log(worker.EventAlertSent), 2)
		})
	}
}

// TestADumpRestoredUnderAWorker that was fit before: it waits, says why, and goes
// on by itself once the chain has been started anew.
func TestADumpRestoredUnderAWorker(t *testing.T) {
	t.Parallel()
	from := newPlatform(t)
	user := from.user(1000)
	first := from.leads()
	from.use(user, 850)
	from.counted(user, 850)
	first.terminate()
	told := from.ids(user)
	dump := from.db.Dump(t)

	in := pgtest.StartServer(t, nil)
	db := in.New(t, pgtest.Migrated(host.CMS))
	w := startProcess(t, runEnvironment(db.URLAs(pgtest.Runtime), ""), "run")
	require.Contains(t, w.awaitReady(), "leader")
	admin := in.Of(&pgtest.DB{Name: "postgres"}).Conn(t)
	for _, sql := range []string{"DROP DATABASE " + db.Name + " WITH (FORCE)", "CREATE DATABASE " + db.Name + " OWNER " + pgtest.Owner} {
		_, err := admin.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	db.Restore(t, "postgres", dump)
	eventually(t, func() bool {
		for _, line := range w.log(worker.EventDatabaseRefused) {
			if line["reason"] == "other_cluster" {
				return true
			}
		}
		return false
	}, "it does not say that the chain is of another cluster")

	p := &platform{t: t, db: db, org: from.org}
	p.connect()
	p.use(user, 50)
	status, _, stderr := typed(t, databaseEnvironment(db.URLs(pgtest.Owner)), "migrate", "up")
	require.Equal(t, 0, status, stderr)
	w.await(worker.EventLeaderAcquired, 2)
	p.counted(user, 900)
	p.settled()
	require.Len(t, p.ids(user), 2)
	assert.Equal(t, told[0], p.ids(user)[0], "nobody is told again")
	assert.Equal(t, []int{80, 90}, p.told(user))
	w.terminate()
}

// TestTheSameClusterRolledBack to a point in time: the chain, the totals and the
// alerts are rolled back together, so the worker goes on by itself. What was told
// after that point is told again when it happens again, under the same ids.
func TestTheSameClusterRolledBack(t *testing.T) {
	t.Parallel()
	p := newPair(t, map[string]string{"recovery_target_name": "before", "recovery_target_action": "promote"})
	kept, undone := p.user(1000), p.user(1000)
	w := p.hosts("target_session_attrs=read-write", p.both())
	require.Contains(t, w.awaitReady(), "leader")
	p.use(kept, 850)
	p.counted(kept, 850)
	told := p.ids(kept)
	require.Len(t, told, 1)

	_, err := p.admin.Exec(t.Context(), "SELECT pg_create_restore_point('before')")
	require.NoError(t, err)
	p.use(kept, 100)
	p.use(undone, 1000)
	p.counted(kept, 950)
	p.counted(undone, 1000)
	later := map[uuid.UUID][]string{kept: p.ids(kept), undone: p.ids(undone)}
	require.Len(t, later[kept], 2)
	require.Len(t, later[undone], 3)

	rolled := p.there.Conn(t)
	eventually(t, func() bool {
		var recovering bool
		require.NoError(t, rolled.QueryRow(t.Context(), "SELECT pg_is_in_recovery()").Scan(&recovering))
		return !recovering
	}, "the recovery does not reach its target")
	require.NoError(t, p.primary.Server().StopImmediate(t.Context()))
	w.await(worker.EventLeaderAcquired, 2)
	after := p.on(p.there)
	after.settled()
	assert.Equal(t, told, after.ids(kept))
	assert.Empty(t, after.ids(undone))

	after.use(kept, 100)
	after.use(undone, 1000)
	after.counted(kept, 950)
	after.counted(undone, 1000)
	after.settled()
	for user, ids := range later {
		assert.Equal(t, ids, after.ids(user), "the same ids")
	}
	assert.Empty(t, w.log(worker.EventDatabaseRefused))
	w.terminate()
}

// TestAMoveBySubscription: the new cluster follows the old one by logical
// replication, schema tokenalert and all. Once `migrate up` has started the chain
// anew there, it goes on as after a dump.
func TestAMoveBySubscription(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"wal_level": "logical"})
	from := platformOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	one, late := from.user(1000), from.user(1000)
	first := from.leads()
	from.use(one, 850)
	from.counted(one, 850)
	told := from.ids(one)

	db := pgtest.StartServer(t, nil).New(t, empty)
	db.Restore(t, "postgres", from.db.Dump(t, "--schema-only"))
	p := &platform{t: t, db: db, org: from.org}
	p.connect()
	_, err := from.admin.Exec(t.Context(), "CREATE PUBLICATION moving FOR ALL TABLES")
	require.NoError(t, err)
	_, err = p.admin.Exec(t.Context(), "CREATE SUBSCRIPTION moving CONNECTION '"+from.db.URL()+"' PUBLICATION moving")
	require.NoError(t, err)
	p.eventually("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", "the tables are not copied")
	from.use(one, 50) // while it follows
	from.use(late, 500)
	from.counted(one, 900)
	from.counted(late, 500)
	first.terminate()
	p.eventually("SELECT count(*) = 3 FROM ai_usage_logs", "it does not follow")
	p.eventually("SELECT count(*) = 2 FROM token_limit_alerts", "it does not follow")
	_, err = p.admin.Exec(t.Context(), "DROP SUBSCRIPTION moving")
	require.NoError(t, err)

	refused(t, withPassword(t, db.URLAs(pgtest.Runtime), secret), "another PostgreSQL cluster")
	status, stdout, stderr := typed(t, databaseEnvironment(db.URLs(pgtest.Owner)), "migrate", "up")
	require.Equal(t, 0, status, stderr)
	assert.Contains(t, stdout, "another cluster")
	w := p.leads()
	p.use(late, 300)
	p.counted(one, 900)
	p.counted(late, 800)
	p.settled()
	assert.Equal(t, told[0], p.ids(one)[0], "nobody is told again")
	assert.Equal(t, []int{80, 90}, p.told(one))
	assert.Equal(t, []int{80}, p.told(late))
	w.terminate()
	assert.Len(t, w.log(worker.EventAlertSent), 1)
}
