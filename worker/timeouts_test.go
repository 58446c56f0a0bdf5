package worker_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/worker"
)

// timesOut has the server cancel each statement that does event (as "INSERT ON table"),
// of which condition is true on what it wrote, as one that takes too long.
func (w *world) timesOut(event, condition string) {
	w.t.Helper()
	w.ownerExec(`CREATE FUNCTION public.times_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF (SELECT ` + condition + ` FROM written) THEN
			RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = 'query_canceled';
		END IF;
		RETURN NULL;
	END $$`)
	w.ownerExec("CREATE TRIGGER times_out AFTER " + event + " REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION public.times_out()")
}

// Of those whose usage was corrected a tick counts fewer where that takes too long.
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
	w.timesOut("UPDATE ON tokenalert.usage_periods", "count(*) > 2")
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

// Of those who cross a tick decides on fewer where telling takes too long.
func TestMoreAlertsThanATickHasTimeFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := make([]uuid.UUID, 25)
	for i := range users {
		users[i] = w.user(1000)
	}
	r := w.start()
	w.settle()
	w.timesOut("INSERT ON notifications", "count(*) > 3")
	w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens) SELECT u, $2, 850, 850, 0 FROM unnest($1::uuid[]) AS u`, users, w.org)
	w.settle()
	for _, u := range users {
		assert.Equal(t, []int{80}, w.told(u))
	}
	assert.NotEmpty(t, r.lines(worker.EventTickFailed), "the trigger was not met")
}

// What cannot be sliced, as one transaction, is counted by a tick that may take as
// long as it needs.
func TestATransactionThatTakesLongerThanATickMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	r := w.start()
	w.settle()
	w.ownerExec(`CREATE TABLE public.took (n serial, might interval)`)
	w.ownerExec(`CREATE FUNCTION public.takes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.took (might) VALUES (current_setting('statement_timeout')::interval);
		RETURN NULL;
	END $$`)
	w.ownerExec("GRANT ALL ON public.took, public.took_n_seq TO PUBLIC")
	w.ownerExec("CREATE TRIGGER takes AFTER INSERT ON tokenalert.ticks FOR EACH ROW EXECUTE FUNCTION public.takes()")
	w.ownerExec("CREATE TRIGGER takes AFTER INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION public.takes()")
	w.timesOut("INSERT ON tokenalert.ticks", "max(rows) > 1 AND current_setting('statement_timeout')::interval < interval '4 min'")
	w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens) SELECT $1, $2, 425, 425, 0 FROM generate_series(1, 2)`, user, w.org)
	w.settle()
	assert.Equal(t, []int{80}, w.told(user))
	assert.Len(t, r.lines(worker.EventTickFailed), 2, "the first had a minute, the second two")
	w.use(user, 60)
	w.settle()
	assert.Equal(t, []int{80, 90}, w.told(user))
	var gave string
	require.NoError(t, w.owner.QueryRow(t.Context(), "SELECT string_agg(extract(epoch FROM might)::integer::text, ' ' ORDER BY n) FROM public.took").Scan(&gave))
	assert.Equal(t, "240 60 60 60", gave, "seconds that the ticks which succeeded might count for, and tell for")
}
