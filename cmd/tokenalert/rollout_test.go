package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/module"
	"tokenalert/internal/overlay"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/worker"
)

// What a Deployment goes through, with the pods of deploy/base: users cross their
// thresholds all the while, and each is told, once.

// nextVersion stamps the binary of the version after this one.
const nextVersion = "v9.9.0-test"

// nextBinary builds the version after this one: it brings a migration more, of a
// table that every tick writes.
func nextBinary(t *testing.T) string {
	t.Helper()
	root, err := module.Root(t.Context())
	require.NoError(t, err)
	file, err := overlay.Write(root, t.TempDir(), []overlay.Edit{{
		File: fmt.Sprintf("migrations/%05d_next.sql", migrations.Version()+1),
		New: `-- +goose Up
SET LOCAL lock_timeout = '60ms';
ALTER TABLE tokenalert.usage_periods ADD COLUMN requests bigint NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE tokenalert.usage_periods DROP COLUMN requests;
`,
	}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "tokenalert")
	require.NoError(t, build(path, nextVersion, "-overlay", file))
	return path
}

// The next version is rolled out, and back. Its migration runs while the old pods
// lead and the host writes; for the way back the schema stays one ahead.
func TestARollingUpdateAndBack(t *testing.T) {
	t.Parallel()
	next := nextBinary(t)
	d := newPlatform(t).deploy()
	users := d.crowd(crossingUsers)
	pods := d.create(d.Replicas)
	d.ready()
	c := d.cross(users)
	goOn := func() { c.goOn(30); d.ready() }
	version := func() int64 {
		return ask[int64](d.platform, "SELECT max(version_id) FROM tokenalert.goose_db_version")
	}
	goOn()

	began := ask[time.Time](d.platform, "SELECT clock_timestamp()")
	require.Equal(t, migrations.Version(), version())
	this := d.binary
	d.binary = next
	pods = d.roll(leaderFirst(pods), goOn)
	assert.Equal(t, migrations.Version()+1, version())
	for _, line := range said(pods, worker.EventWorkerStarted) {
		assert.Equal(t, nextVersion, line["version"])
	}
	t.Logf("rolled out: who crossed waited %s at most", c.longestWait(began))

	began = ask[time.Time](d.platform, "SELECT clock_timestamp()")
	d.binary = this
	pods = leaderFirst(pods)
	pods[0], pods[1] = pods[1], pods[0]
	pods = d.roll(pods, goOn)
	assert.Equal(t, migrations.Version()+1, version())
	for _, line := range said(pods, worker.EventWorkerStarted) {
		assert.Equal(t, stampedVersion, line["version"])
	}
	t.Logf("rolled back: who crossed waited %s at most", c.longestWait(began))

	c.stop()
	c.caughtUp()
	d.stop(pods)
	c.audited(d.pods, 80, 90, 100)
	assert.Empty(t, said(d.pods, worker.EventLeaderLost), "a lead was not handed over")
	t.Logf("%d users told by %d pods, none of which was unready for more than %s", c.written(), len(d.pods), d.unready())
}

// What commits while no pod is there is told by the next, once.
func TestScaledToNothingAndBack(t *testing.T) {
	t.Parallel()
	d := newPlatform(t).deploy()
	users := d.crowd(crossingUsers)
	pods := d.create(d.Replicas)
	c := d.cross(users)
	c.goOn(30)

	d.stop(pods)
	told := c.toldSoFar()
	c.writes(100)
	assert.Equal(t, told, c.toldSoFar())

	pods = d.create(d.Replicas)
	c.goOn(30)
	d.ready()
	c.stop()
	c.caughtUp()
	d.stop(pods)
	c.audited(d.pods, 80, 90, 100)
	assert.Empty(t, said(d.pods, worker.EventLeaderLost), "a lead was not handed over")
}

// Other thresholds and another time zone come with a rolling update of the
// ConfigMap alone. They are in force from when the first of the new pods leads,
// and are said to differ until then; nobody is told again for it.
func TestSettingsChangeWithARollingUpdate(t *testing.T) {
	t.Parallel()
	d := newPlatform(t).deploy()
	stands, later := d.user(1000), d.user(1000)
	users := d.crowd(crossingUsers)
	pods := d.create(d.Replicas)
	d.ready()
	c := d.cross(users)
	d.use(stands, 600)
	d.counted(stands, 600)
	c.goOn(30)

	configMap := d.ConfigMaps["tokenalert"]
	configMap["TOKENALERT_THRESHOLDS"], configMap["TOKENALERT_TIME_ZONE"] = "50,80,90,100", "America/Santiago"
	old := pods
	pods = d.roll(leaderFirst(old), func() { c.goOn(30); d.ready() })

	first := pods[0].log(worker.EventSettingsDiffer)
	require.Len(t, first, 2, "what the first of the new pods says of those who lead")
	assert.Equal(t, []any{"TOKENALERT_TIME_ZONE", "America/Santiago", "UTC"}, []any{first[0]["setting"], first[0]["configured"], first[0]["in_force"]})
	assert.Equal(t, []any{"TOKENALERT_THRESHOLDS", "50,80,90,100", "80,90,100"}, []any{first[1]["setting"], first[1]["configured"], first[1]["in_force"]})
	changed := said(pods, worker.EventSettingsChanged)
	require.Len(t, changed, 2, "each setting, once")
	assert.Equal(t, []any{"TOKENALERT_TIME_ZONE", "UTC", "America/Santiago"}, []any{changed[0]["setting"], changed[0]["before"], changed[0]["after"]})
	assert.Equal(t, []any{"TOKENALERT_THRESHOLDS", "80,90,100", "50,80,90,100"}, []any{changed[1]["setting"], changed[1]["before"], changed[1]["after"]})
	assert.Empty(t, said(old, worker.EventSettingsChanged))
	assert.Equal(t, "America/Santiago {50,80,90,100}", ask[string](d.platform, "SELECT time_zone || ' ' || thresholds::text FROM tokenalert.settings"))

	c.stop()
	c.caughtUp()
	d.use(later, 600)
	d.counted(later, 600)
	assert.Equal(t, []int{50}, d.told(later))
	assert.Empty(t, d.told(stands), "told of a threshold above which they stood before it was one")
	d.stop(pods)
	c.audited(d.pods, 50, 80, 90, 100)
}

// A pod that is told to end does so before the kubelet kills it, also where the
// database answers nothing: the leader in the middle of a tick, and the follower.
func TestSIGTERMWithinTheGrace(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, nil)
	d := platformOn(t, in.New(t, pgtest.Migrated(host.CMS))).deploy()
	user := d.user(1000)
	pods := d.create(d.Replicas)
	d.ready()
	grace, patience := pods[0].settings().ShutdownGrace, time.Duration(d.Template.Spec.TerminationGracePeriodSeconds)*time.Second
	assert.Less(t, grace, patience, "TOKENALERT_SHUTDOWN_GRACE, and the pods' terminationGracePeriodSeconds")

	d.db.HoldTicks(t)
	d.use(user, 850)
	d.held()
	thaw, err := in.Server().Freeze(t.Context())
	require.NoError(t, err)
	t.Cleanup(thaw)
	d.stop(pods)
	for _, p := range pods {
		t.Logf("%s ended after %s, of %s", p.Name, p.took.Round(time.Millisecond), grace)
	}
}

// The password of the worker's role changes under the pods, and their sessions
// end. They try again, and go on with the new one when the Secret has it.
func TestARotatedSecret(t *testing.T) {
	t.Parallel()
	const first, second = "first-horse-battery", "second-horse-battery"
	in := pgtest.StartServer(t, nil)
	d := platformOn(t, in.New(t, pgtest.Migrated(host.CMS))).deploy()
	d.requirePassword(podRole, first)
	secret := d.secrets["tokenalert"]
	secret["database-url"] = withPassword(t, d.db.URLAs(podRole), first)
	users := d.crowd(crossingUsers)
	pods := d.create(d.Replicas)
	d.ready()
	c := d.cross(users)
	c.goOn(30)

	began := ask[time.Time](d.platform, "SELECT clock_timestamp()")
	d.setPassword(podRole, second)
	require.Positive(t, ask[int](d.platform, "SELECT count(pg_terminate_backend(pid))::integer FROM pg_stat_activity WHERE usename = $1", podRole))
	c.cut++
	for _, p := range pods {
		eventually(t, func() bool { return p.saidOf(worker.EventDatabaseUnreachable, "28P01") }, p.Name+" does not say that it is refused")
	}
	secret["database-url"] = withPassword(t, d.db.URLAs(podRole), second)
	d.rotate()
	c.goOn(30)
	d.ready()
	t.Logf("who crossed waited %s at most; no pod was unready for more than %s", c.longestWait(began), d.unready())

	c.stop()
	c.caughtUp()
	d.stop(pods)
	c.audited(d.pods, 80, 90, 100)
	for _, p := range pods {
		assert.Len(t, p.log(worker.EventWorkerStarted), 1)
		for _, password := range []string{first, second} {
			assert.NotContains(t, p.stdout.String()+p.stderr.String(), password)
		}
	}
}

// saidOf reports whether a line of an event names an error of PostgreSQL's.
func (p *pod) saidOf(event worker.EventName, sqlstate string) bool {
	for _, line := range p.log(event) {
		if line["sqlstate"] == sqlstate {
			return true
		}
	}
	return false
}
