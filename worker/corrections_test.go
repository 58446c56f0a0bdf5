package worker_test

import (
	"testing"

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
		w.use(users[i], 50)
		w.use(users[i], 50)
	}
	r := w.start()
	w.settle()
	before := len(r.lines(worker.EventRecountDone)) // of limits that are new
	w.onCount("count(*) > 2", "RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = 'query_canceled'")
	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 425")
	w.settle()
	for _, u := range users {
		assert.Equal(t, []int{80}, w.told(u))
	}
	w.assertTotals()
	assert.NotEmpty(t, r.lines(worker.EventTickFailed), "the trigger was not met")
	var corrected int64
	for _, line := range r.lines(worker.EventRecountDone)[before:] {
		corrected += line.ContextMap()["users"].(int64)
	}
	assert.EqualValues(t, len(users), corrected, "each is counted once, for both rows")
}
