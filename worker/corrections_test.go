package worker_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"

	"tokenalert/worker"
)

// onCount has the server do something in each statement that counts totals anew of
// which condition is true, on the table counted.
func (w *world) onCount(condition, do string) {
	w.t.Helper()
	w.ownerExec(`CREATE FUNCTION public.on_count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF (SELECT ` + condition + ` FROM counted) THEN ` + do + `; END IF;
		RETURN NULL;
	END $$`)
	w.ownerExec(`CREATE TRIGGER on_count AFTER UPDATE ON tokenalert.usage_periods REFERENCING NEW TABLE AS counted
		FOR EACH STATEMENT EXECUTE FUNCTION public.on_count()`)
}

func TestMoreCorrectionsThanATickCanDealWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := make([]uuid.UUID, 25)
	for i := range users {
		users[i] = w.user(1000)
		w.use(users[i], 100)
	}
	r := w.start()
	w.settle()
	w.onCount("count(*) > 2", "RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = 'query_canceled'")
	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 850")
	w.settle()
	for _, u := range users {
		assert.Equal(t, []int{80}, w.told(u))
	}
	w.assertTotals()
	assert.NotEmpty(t, r.lines(worker.EventTickFailed), "the trigger was not met")
}

func TestCorrectionsFollowTheTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ownerExec(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
		SELECT $1, i || '@example.org', 'none', 'Ada', 1000 FROM generate_series(1, 2000) i`, w.org)
	w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens)
		SELECT id, organization_id, 1, 1, 0 FROM users WHERE organization_id = $1`, w.org)
	r := w.start(func(c *worker.Config) { c.TickTarget = 100 * time.Millisecond })
	w.settle()
	w.onCount("count(*) > 200", "PERFORM pg_sleep(0.3)")
	before := len(r.lines(worker.EventRecountDone))
	for _, tokens := range []int{2, 3} {
		w.ownerExec("UPDATE ai_usage_logs SET tokens_used = $1", tokens)
		w.settle()
	}
	w.assertTotals()
	var taken []int64
	for _, line := range r.lines(worker.EventRecountDone)[before:] {
		taken = append(taken, line.ContextMap()["users"].(int64))
	}
	assert.Equal(t, []int64{2000, 1000, 500, 250}, taken[:min(4, len(taken))])
}
