package store_test

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"tokenalert/store"
)

// deliverOnce does once all that a replica does with the queue, by the driver
// that River does it with, and returns the first error.
func (s *site) deliverOnce(ctx context.Context, role string) error {
	const schema = "tokenalert"
	s.exec("DELETE FROM tokenalert.river_leader") // of an attempt that lacked something
	pool, err := pgxpool.New(ctx, s.direct(role))
	require.NoError(s.t, err)
	defer pool.Close()
	river := riverpgxv5.New(pool).GetExecutor()
	elected, err := river.LeaderAttemptElect(ctx, &riverdriver.LeaderElectParams{LeaderID: "a", TTL: time.Minute, Schema: schema})
	if err != nil {
		return err
	}
	if _, err = river.LeaderAttemptReelect(ctx, &riverdriver.LeaderReelectParams{LeaderID: "a", ElectedAt: elected.ElectedAt, TTL: time.Minute, Schema: schema}); err != nil {
		return err
	}
	if _, err = river.LeaderResign(ctx, &riverdriver.LeaderResignParams{
		LeaderID: "a", ElectedAt: elected.ElectedAt, LeadershipTopic: "river_leadership", Schema: schema,
	}); err != nil {
		return err
	}
	if _, err = river.QueueCreateOrSetUpdatedAt(ctx, &riverdriver.QueueCreateOrSetUpdatedAtParams{Name: "email", Schema: schema}); err != nil {
		return err
	}
	jobs, err := river.JobGetAvailable(ctx, &riverdriver.JobGetAvailableParams{ClientID: "a", MaxAttemptedBy: 10, MaxToLock: 1000, Queue: "email", Schema: schema})
	if err != nil {
		return err
	}
	if err = s.readAndEnd(ctx, role, river, jobs.Jobs[len(jobs.Jobs)-1].EncodedArgs); err != nil {
		return err
	}
	if _, err = river.JobDeleteBefore(ctx, &riverdriver.JobDeleteBeforeParams{
		CompletedDoDelete: true, CompletedFinalizedAtHorizon: time.Now().Add(time.Hour), Max: 10, Schema: schema,
	}); err != nil {
		return err
	}
	_, err = river.QueueDeleteExpired(ctx, &riverdriver.QueueDeleteExpiredParams{Max: 10, UpdatedAtHorizon: time.Now().Add(time.Hour), Schema: schema})
	return err
}

// readAndEnd reads what a running delivery says, notes the e-mail, and ends all
// that run.
func (s *site) readAndEnd(ctx context.Context, role string, river riverdriver.Executor, args []byte) error {
	queue := s.queue(role)
	defer queue.Close()
	var job store.Delivery
	require.NoError(s.t, json.Unmarshal(args, &job))
	told, err := queue.Alert(ctx, job)
	if err != nil {
		return err
	}
	require.NotNil(s.t, told)
	if _, err = queue.Alert(ctx, store.Delivery{Channel: store.ChannelWebhook}); err != nil { // none, nor of a budget
		return err
	}
	if _, err = queue.Recipient(ctx, job); err != nil {
		return err
	}
	if err = queue.Emailed(ctx, job.AlertID); err != nil {
		return err
	}
	if _, err = queue.Backlogs(ctx); err != nil {
		return err
	}
	return river.Exec(ctx, "UPDATE tokenalert.river_job SET state = 'completed', finalized_at = now()")
}

func (s *site) queue(role string) *store.Queue {
	s.t.Helper()
	queue, err := store.OpenQueue(s.direct(role), river.Config{})
	require.NoError(s.t, err)
	return queue
}

// direct is the URL that goes past a pooler.
func (s *site) direct(role string) string {
	url, direct := s.db.URLs(role)
	return cmp.Or(direct, url)
}
