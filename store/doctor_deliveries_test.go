package store_test

import (
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// queued has somebody told by a tick that delivers by webhook: a job that nobody
// takes.
func queued(s *site) {
	c := counterOn(s.t, s)
	c.delivering("webhook")
	c.use(c.user(100), 90)
	c.tick()
}

// replicaDelivers opens a session as a replica that delivers keeps one.
func replicaDelivers(s *site) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.db.URLAs(pgtest.Runtime)+"&application_name=tokenalert%20deliver")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close(s.t.Context()) })
}

// jobs changes all jobs.
func jobs(set string) func(*site) { return doing("UPDATE tokenalert.river_job SET " + set) }

const refused = `errors = ARRAY[jsonb_build_object('error', 'first'), jsonb_build_object('error', 'JobCancelError: the receiver answered 410 Gone')]`

func TestTheDoctorFindsWhatIsNotDelivered(t *testing.T) {
	t.Parallel()
	const forget = "DELETE FROM tokenalert.river_job WHERE queue = 'webhook' AND state IN ('available', 'pending', 'retryable', 'scheduled');"
	listAndRetry := []string{"tokenalert deliveries list --state failed --channel webhook", "tokenalert deliveries retry --failed --channel webhook"}
	waiting := func(s *site) {
		queued(s)
		jobs("scheduled_at = now() - interval '4 minutes', created_at = now() - interval '4 minutes'")(s)
	}
	retrying := func(s *site) {
		queued(s)
		jobs("attempt = 3, state = 'retryable', scheduled_at = now() + interval '5 minutes', created_at = now() - interval '14 minutes', " + refused)(s)
	}
	failed := func(s *site) {
		queued(s)
		jobs("attempt = 1, state = 'cancelled', finalized_at = now() - interval '25 hours', " + refused)(s)
	}
	runFaults(t, map[string]fault{
		"nobody delivers": {
			check: "deliveries", as: pgtest.Runtime, before: waiting, make: jobs("scheduled_at = now() - interval '6 minutes 20 seconds'"),
			severity: store.Warning, says: []string{"1 alert has waited for 6m2", "to be delivered by webhook, and no worker delivers"},
			remedy: "give the workers the settings of this channel", commands: []string{forget},
		},
		"those that deliver do so by other channels": {
			check: "deliveries", before: func(s *site) { waiting(s); replicaDelivers(s) }, make: jobs("scheduled_at = now() - interval '6 minutes 20 seconds'"),
			severity: store.Warning, says: []string{"1 alert has waited for 6m2", "to be delivered by webhook, and no worker takes them, though some deliver"},
			commands: []string{forget},
		},
		"tried again and again": {
			check: "deliveries", as: pgtest.Runtime, before: retrying, make: jobs("created_at = now() - interval '16 minutes 20 seconds'"),
			severity: store.Warning, says: []string{"1 alert is tried again and again by webhook, for 16m2", "by now: the receiver answered 410 Gone"},
			remedy: "`tokenalert deliveries retry ID`", commands: []string{"tokenalert deliveries list --state retrying --channel webhook"},
			cure: jobs("metadata = jsonb_build_object('retried_at', now())"), // it is tried anew from now on
		},
		"given up": {
			check: "deliveries", as: pgtest.Runtime, before: failed, make: func(s *site) {
				jobs("finalized_at = now() - interval '22 hours'")(s)
				doing(`INSERT INTO tokenalert.river_job (args, kind, max_attempts, queue, state, finalized_at, errors)
					SELECT args, kind, max_attempts, queue, state, now() - interval '23 hours', errors[:1] FROM tokenalert.river_job`)(s)
			},
			severity: store.Warning, says: []string{"2 alerts were given up in the last day and not delivered by webhook, the last one because: the receiver answered 410 Gone"},
			remedy: "mend what the error says", commands: listAndRetry,
			cure: jobs("state = 'available', finalized_at = NULL, scheduled_at = now()"),
		},
		"given up after a day": {
			check: "deliveries", before: failed, make: jobs("finalized_at = now(), state = 'discarded'"),
			severity: store.Warning, says: []string{"1 alert was given up"}, commands: listAndRetry,
			cure: doing("DELETE FROM token_limit_alerts"), // its user is gone, so nobody is left to be told
		},
	})
}

// A worker that delivers says so in the findings' place.
func TestTheDoctorSeesThatDeliveriesArrive(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	assert.Equal(t, "nothing waits, and no worker delivers", examined(t, s.diagnose(pgtest.Runtime), "deliveries").Well)
	replicaDelivers(s)
	queued(s)
	assert.Equal(t, "delivered, or about to be", examined(t, s.diagnose(pgtest.Runtime), "deliveries").Well)
}

// What is there is found by a role that is called as our schema, and so has it in
// its search_path.
func TestTheDoctorFindsNothingGoneByAnyPath(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	for _, path := range []string{"public", "tokenalert, public"} {
		d := diagnose(t, s.db.URLAs(pgtest.Runtime)+"&search_path="+url.QueryEscape(path), "", doctorRequest(t))
		assert.Empty(t, examined(t, d, "schema").Findings, path)
	}
}
