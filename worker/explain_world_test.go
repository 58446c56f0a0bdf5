package worker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
	"tokenalert/worker"
)

// What is explained here has come about by real events on a real worker; the
// words for every state are in explain_test.go.

// explained asks as the role that runs the worker.
type explained struct {
	worker.Explanation
	account store.Account
}

func (w *world) explain(user uuid.UUID) explained {
	w.t.Helper()
	a, err := w.store.Explain(w.t.Context(), user.String())
	require.NoError(w.t, err)
	return explained{worker.Explain(a), a}
}

// states are thresholds as "90 told", "80 recorded superseded".
func states(verdicts []worker.ThresholdVerdict) []string {
	list := []string{}
	for _, v := range verdicts {
		list = append(list, strings.TrimSpace(fmt.Sprint(v.Threshold, " ", v.State, " ", v.Reason)))
	}
	return list
}

// sentence is that of a threshold of the current period.
func (e explained) sentence(threshold int32) string {
	for _, v := range e.Current {
		if v.Threshold == threshold {
			return v.Sentence
		}
	}
	return ""
}

func (e explained) notes() string { return strings.Join(e.Notes, "\n") }

// sums holds the total to what the rows add up to.
func (e explained) sums(t *testing.T, tokens int64) {
	t.Helper()
	require.NotNil(t, e.account.Current.RowsAddUpTo)
	assert.Equal(t, tokens, e.account.Current.TokensUsed)
	assert.Equal(t, tokens, *e.account.Current.RowsAddUpTo)
	assert.NotContains(t, e.notes(), "reconcile")
}

func TestExplainToldStepByStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.newUser(host.User{Limit: new(1000), FullName: "Ana Pérez"})
	assert.Contains(t, w.explain(user).Answer, "Ana Pérez was told of nothing by tokenalert: no worker has ever led")
	w.start()
	w.use(user, 700)
	w.settle()
	e := w.explain(user)
	assert.Equal(t, "Ana Pérez was told of nothing in this period: 700 of 1,000 tokens are 70.0 %; the next threshold is 80 %, 100 tokens away.", e.Answer)
	assert.Equal(t, []string{"80 not_reached", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Empty(t, e.Notes)
	require.NotNil(t, e.account.Leader)
	assert.NotNil(t, e.account.Leader.Since)
	assert.Contains(t, config().WorkerName, e.account.Leader.Worker)
	beside := newWorld(t) // in the same cluster, where somebody leads here
	assert.Nil(t, beside.explain(beside.user(1000)).account.Leader)

	w.use(user, 100)
	w.settle()
	e = w.explain(user)
	require.NotNil(t, e.Current[0].At)
	assert.Equal(t, "Ana Pérez was told of 80 % on "+e.Current[0].At.UTC().Format("2006-01-02 15:04:05 UTC")+"; the next threshold is 90 %, 100 tokens away.", e.Answer)
	w.use(user, 149)
	w.settle()
	e = w.explain(user)
	assert.Contains(t, e.Answer, "Ana Pérez was told of 90 % on ")
	assert.Contains(t, e.Answer, "; the next threshold is 100 %, 51 tokens away.")
	assert.Equal(t, []string{"80 told", "90 told", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.sentence(90), "at 94.9 %, 949 of 1,000 tokens")
	e.sums(t, 949)

	// Each row says which tick counted it, as the chain has it.
	require.Len(t, e.account.Newest, 3)
	for i, r := range e.account.Newest {
		assert.Equal(t, store.CountedByTick, r.CountedBy)
		assert.Equal(t, []int64{149, 100, 700}[i], r.TokensUsed)
		assert.Equal(t, w.tickOf(*r.XactID), r.Tick.ID)
		assert.Contains(t, worker.CountedBy(e.account, r), fmt.Sprintf("tick %d (", r.Tick.ID))
	}
	require.Len(t, e.account.Alerts, 2)
	for _, al := range e.account.Alerts {
		assert.NotNil(t, al.NotificationID)
	}
	assert.Equal(t, e.account.Newest[0].Tick.ID, *e.account.Alerts[1].TickID)
}

// tickOf finds by reading all of the chain which tick first sees a transaction.
func (w *world) tickOf(xact string) int64 {
	w.t.Helper()
	var id int64
	require.NoError(w.t, w.owner.QueryRow(w.t.Context(),
		"SELECT min(id) FROM tokenalert.ticks WHERE pg_visible_in_snapshot($1::text::xid8, snapshot)", xact).Scan(&id))
	return id
}

func TestExplainAJump(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.start()
	w.use(user, 700)
	w.settle()
	w.use(user, 350)
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 recorded superseded", "90 recorded superseded", "100 told"}, states(e.Current))
	assert.Contains(t, e.sentence(80), "not told: 100 % was reached at once and told instead")
	assert.Contains(t, e.Answer, "was told of 100 % on ")
	assert.Contains(t, e.Answer, "; there is no further threshold.")
	e.sums(t, 1050)
}

func TestExplainALimitThatMoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, hair := w.user(1000), w.user(1000)
	w.start()
	w.use(user, 900)
	w.use(hair, 850)
	w.settle()
	w.limit(user, new(2000))
	e := w.explain(user)
	assert.Contains(t, e.Answer, ", when the limit was 1,000; the next threshold is 80 %, 700 tokens away.")
	assert.Equal(t, []string{"80 not_reached", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.sentence(90), "not reached: 900 tokens away (told on ")

	w.limit(user, new(1000)) // already told
	e = w.explain(user)
	assert.Contains(t, e.Answer, "was told of 90 % on ")
	assert.Contains(t, e.Answer, "; the next threshold is 100 %, 100 tokens away.")
	assert.Equal(t, "90 told", states(e.Current)[1])
	assert.Contains(t, e.notes(), "a limit that is raised and lowered back")

	w.limit(hair, new(1001))
	e = w.explain(hair)
	assert.Equal(t, "80 told", states(e.Current)[0])
	assert.Contains(t, e.sentence(80), ", when the limit was 1,000; the limit has changed since, but usage never stood a whole percentage point below")

	w.limit(hair, nil)
	e = w.explain(hair)
	assert.Contains(t, e.Answer, ", when the limit was 1,000; there is no limit (users.monthly_token_limit is not set).")
	assert.Equal(t, []string{"80 told", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.sentence(80), ", when the limit was 1,000; there is no limit now")
	assert.Equal(t, "cannot be reached: there is no limit", e.sentence(90))
}

func TestExplainACrossingUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.start()
	w.use(user, 600)
	w.use(user, 250)
	w.settle()
	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 50 WHERE tokens_used = 250")
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 told", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.sentence(80), "; usage has since fallen to 65.0 %, and under this limit nobody is told of it again")
	assert.Contains(t, e.Answer, "; usage has since fallen to 65.0 %; the next threshold is 90 %, 250 tokens away.")
	assert.Empty(t, e.account.Current.Marks)
	e.sums(t, 650)
}

func TestExplainWhileNoWorkerRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, lowered, corrected, elsewhere := w.user(1000), w.user(10_000), w.user(1000), w.user(1000)
	r := w.start()
	for _, u := range []uuid.UUID{user, lowered, corrected} {
		w.use(u, 700)
	}
	w.settle()
	r.stop()

	w.use(user, 150)
	e := w.explain(user)
	assert.Equal(t, []string{"80 uncounted", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "has not been told yet; 80 % is about to be reached, at 85.0 %, by what waits to be counted: nobody leads, so start `tokenalert run`.")
	assert.Contains(t, e.notes(), "Nobody leads")
	assert.Contains(t, e.notes(), "Not yet counted: 150 tokens in 1 row.")
	assert.Equal(t, store.CountedNotYet, e.account.Newest[0].CountedBy)
	assert.Equal(t, "not yet: nobody leads, so start `tokenalert run`", worker.CountedBy(e.account, e.account.Newest[0]))
	assert.Equal(t, store.CountedByTick, e.account.Newest[1].CountedBy)
	assert.NotContains(t, e.notes(), "reconcile")

	w.ownerExec("UPDATE users SET monthly_token_limit = 750 WHERE id = $1", lowered)
	e = w.explain(lowered)
	assert.Equal(t, []string{"80 undecided", "90 undecided", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "has not been told yet; 90 % is reached, and not yet decided: nobody leads")
	assert.Contains(t, e.notes(), "The user is to be decided anew at the next tick: the limit was changed.")

	w.ownerExec("UPDATE ai_usage_logs SET tokens_used = 1000 WHERE user_id = $1", corrected)
	e = w.explain(corrected)
	assert.Equal(t, []string{"80 uncounted", "90 uncounted", "100 uncounted"}, states(e.Current))
	assert.Contains(t, e.Answer, "100 % is about to be reached, at 100.0 %")
	assert.Contains(t, e.notes(), "The user is to be counted anew at the next tick: rows of usage were changed.")
	assert.NotContains(t, e.notes(), "reconcile", "a correction says why the total differs")

	w.ownerExec("TRUNCATE ai_usage_logs")
	e = w.explain(elsewhere)
	assert.Contains(t, e.notes(), "Everybody is to be counted anew: ai_usage_logs was truncated.")
	e = w.explain(user)
	assert.Equal(t, []string{"80 not_reached", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Empty(t, e.account.Newest)

	w.start()
	w.settle()
	w.explain(user).sums(t, 0)
}

func TestExplainAUserSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user, other := w.user(1000), w.user(1000)
	w.ownerExec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$`)
	w.ownerExec(fmt.Sprintf(`CREATE TRIGGER refuse BEFORE INSERT ON notifications FOR EACH ROW WHEN (NEW.user_id = '%s') EXECUTE FUNCTION refuse()`, user))
	r := w.start()
	w.use(user, 850)
	w.use(other, 850)
	r.await(worker.EventUserSetAside)
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 undecided", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "80 % is reached, and not yet decided: the data of this user made a statement fail, as the worker's log says (user.set_aside); the user is tried again after ")
	assert.Contains(t, e.notes(), "The user is to be decided anew after ")
	assert.Equal(t, []string{"80 told", "90 not_reached", "100 not_reached"}, states(w.explain(other).Current))
}

func TestExplainAHeldUser(t *testing.T) {
	t.Parallel()
	w := newLMS(t)
	user := w.lmsUser(1000)
	r := w.start()
	r.asleep()
	tx := w.holds(user)
	w.use(user, 850)
	r.await(worker.EventRecountDeferred)
	e := w.explain(user)
	assert.Equal(t, []string{"80 undecided", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "the host holds the user's row; the user is looked at again")
	require.NoError(t, tx.Commit(t.Context()))
	w.eventually(func() bool { return len(w.told(user)) == 1 }, "the held user is never told")
	assert.Contains(t, w.explain(user).Answer, "was told of 80 % on ")
}

func TestExplainTheUnlimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	unset, zero, negative := w.newUser(host.User{}), w.user(0), w.user(-1)
	w.start()
	for user, value := range map[uuid.UUID]string{unset: "is not set", zero: "is 0", negative: "is -1"} {
		w.use(user, 5000)
		w.settle()
		e := w.explain(user)
		assert.Equal(t, "Ada Example is told of nothing; there is no limit (users.monthly_token_limit "+value+").", e.Answer)
		assert.Equal(t, []string{"80 not_reached", "90 not_reached", "100 not_reached"}, states(e.Current))
		e.sums(t, 5000)
	}
}

func TestExplainWhereLimitsAreOurs(t *testing.T) {
	t.Parallel()
	w := newLMS(t)
	user, unlimited := w.lmsUser(1000), w.newUser(host.User{})
	w.start()
	w.use(user, 850)
	w.ownerExec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
		VALUES ($1, $2, 100000, 0, 0, 'infinity'), ($1, $2, 100000, 0, 0, NULL)`, user, w.org)
	w.settle()
	e := w.explain(user)
	assert.Contains(t, e.Answer, "was told of 80 % on ")
	assert.Contains(t, e.notes(), "Never counted: 2 rows whose created_at is missing")
	e.sums(t, 850)
	assert.Contains(t, w.explain(unlimited).Answer, "there is no limit (tokenalert.user_limits.monthly_token_limit is not set)")
	w.ownerExec("DELETE FROM ai_usage_logs WHERE created_at = 'infinity'")
	w.settle()
	w.explain(user).sums(t, 850)
}

func TestExplainAnUnknownUser(t *testing.T) {
	t.Parallel()
	w := newLMS(t)
	unknown, unheard := uuid.New(), uuid.New()
	w.use(unknown, 950)
	w.use(unknown, 50)
	_, err := w.store.Explain(t.Context(), unknown.String())
	require.ErrorContains(t, err, "no user has the id "+unknown.String()+"; usage is logged under it (rows: 2, tokens: 1000) and counted all the same, but nobody is told of it")
	_, err = w.store.Explain(t.Context(), unheard.String())
	require.ErrorContains(t, err, "no user has the id "+unheard.String()+", and no usage is logged under it")
}

func TestExplainABackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.use(user, 950)
	w.start(func(c *worker.Config) { c.Backfill = "record" })
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 recorded backfill", "90 recorded backfill", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "was not told of 90 %: usage stood above it at the very first count, and TOKENALERT_BACKFILL was record; the next threshold is 100 %, 50 tokens away.")
	// The row was there before the chain began.
	assert.Equal(t, store.First, e.account.Newest[0].Tick.Kind)
}

func TestExplainAThresholdThatComesOrGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	first := w.start()
	w.use(user, 970)
	w.settle()
	first.stop()
	next := w.start(func(c *worker.Config) { c.Thresholds = []int{80, 95, 100} })
	next.await(worker.EventTickCompleted)
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 recorded superseded", "90 told", "95 recorded threshold_added", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "was told of 90 % on ")
	assert.Contains(t, e.Answer, "; 95 % was not told: the settings, or a policy, gained this threshold while usage stood above it already; the next threshold is 100 %, 30 tokens away.")
	assert.Contains(t, e.sentence(90), "; it is no longer among the thresholds in force")
	assert.False(t, e.Current[1].InForce)
}

func TestExplainAClosedPeriod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := nextYear(time.June, 1)
	w.db.SetNow(t, end.Add(-time.Hour))
	user := w.user(1000)
	w.start()
	w.useAt(user, 850, end.Add(-time.Hour))
	w.settle()
	w.db.SetNow(t, end.Add(time.Hour))
	w.useAt(user, 100, end.Add(-time.Minute)) // late
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 told", "90 recorded period_closed", "100 not_reached"}, states(e.Previous))
	assert.Contains(t, e.Previous[1].Sentence, "at 95.0 %, 950 of 1,000 tokens, not told: what reached it was counted when the period had ended")
	assert.Equal(t, []string{"80 not_reached", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.Answer, "was told of nothing in this period: 0 of 1,000 tokens")
	assert.True(t, end.Equal(e.account.Current.Start))
	assert.True(t, end.Equal(e.account.Previous.End))
	assert.EqualValues(t, 950, e.account.Previous.TokensUsed)
}

func TestExplainAPeriodThatAFullCountFoundClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.useAt(user, 950, time.Now().UTC().AddDate(0, 0, -time.Now().UTC().Day()))
	w.start()
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 marked", "90 marked", "100 not_reached"}, states(e.Previous))
	assert.Contains(t, e.Previous[1].Sentence, "nobody is told of the past")
}

func TestExplainUsageDatedAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetNow(t, nextYear(time.May, 20))
	user := w.user(1000)
	w.start()
	w.useAt(user, 950, nextYear(time.June, 1).Add(time.Hour))
	w.settle()
	e := w.explain(user)
	assert.Contains(t, e.Answer, "was told of nothing in this period: 0 of 1,000")
	june := nextYear(time.June, 1).Format("2006-01-02 15:04:05 UTC")
	assert.Contains(t, e.notes(), "Dated ahead: 950 tokens in the period that begins on "+june)
	assert.Contains(t, e.notes(), "The user is to be looked at after "+june)
}

func TestExplainWhatWasCarriedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db.SetNow(t, nextYear(time.May, 20))
	user := w.user(1000)
	w.start()
	w.useAt(user, 850, nextYear(time.May, 18))
	w.settle()
	w.ownerExec("UPDATE users SET token_limit_reset_day = 15 WHERE id = $1", user)
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 recorded carried_over", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.sentence(80), "it had been told on ")
	assert.Contains(t, e.sentence(80), ", before the reset day or the zone changed")
	assert.Contains(t, e.Answer, "was told of 80 % on ")
	assert.Contains(t, e.Answer, ", in the period that began on "+nextYear(time.May, 1).Format("2006-01-02 15:04:05 UTC"))
	e.sums(t, 850)
}

func TestExplainWhatTheHostHadTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.use(user, 850)
	w.ownerExec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, sent_at) VALUES ($1, $2, 80, true, now())`, user, w.org)
	w.start()
	w.settle()
	e := w.explain(user)
	assert.Equal(t, []string{"80 recorded carried_over", "90 not_reached", "100 not_reached"}, states(e.Current))
	assert.Contains(t, e.sentence(80), "the host itself had told it on ")
	assert.Contains(t, e.Answer, ", by the host itself; the next threshold is 90 %, 50 tokens away.")
}

// What nobody recorded: triggers switched off, rows taken away.
func TestExplainWhatHappenedBehindOurBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	differs, unheard, wiped := w.user(1000), w.user(10_000), w.user(1000)
	w.start()
	for _, u := range []uuid.UUID{differs, unheard, wiped} {
		w.use(u, 850)
	}
	w.settle()
	super := w.db.Conn(t)
	for _, sql := range []string{
		"SET session_replication_role = replica",
		fmt.Sprintf("UPDATE ai_usage_logs SET tokens_used = 200 WHERE user_id = '%s'", differs),
		fmt.Sprintf("UPDATE users SET monthly_token_limit = 1000 WHERE id = '%s'", unheard),
		fmt.Sprintf("DELETE FROM token_limit_alerts WHERE user_id = '%s'", wiped),
	} {
		_, err := super.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	e := w.explain(differs)
	assert.Contains(t, e.notes(), "The total is 850, and the rows that are counted add up to 200; `tokenalert reconcile`")
	e = w.explain(unheard)
	assert.Equal(t, "80 undecided", states(e.Current)[0])
	assert.Contains(t, e.Answer, "nothing that waits says why")
	w.use(unheard, 1) // as it says
	w.settle()
	assert.Contains(t, w.explain(unheard).Answer, "was told of 80 % on ")
	e = w.explain(wiped)
	assert.Equal(t, "80 marked", states(e.Current)[0])
	assert.Contains(t, e.Answer, "somebody deleted the row from token_limit_alerts")
}
