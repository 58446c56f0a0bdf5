package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// budget sets an organization's, as `tokenalert policy set` does; a limit of 0
// removes it.
func (s *site) budget(organization uuid.UUID, limit, day int, zone string) {
	s.t.Helper()
	if limit == 0 {
		s.exec("UPDATE tokenalert.policies SET budget = NULL WHERE organization_id = $1", organization)
		return
	}
	s.exec(`INSERT INTO tokenalert.policies (organization_id, budget, budget_reset_day, budget_time_zone) VALUES ($1, $2, $3, $4)
		ON CONFLICT (organization_id) DO UPDATE SET budget = EXCLUDED.budget, budget_reset_day = EXCLUDED.budget_reset_day,
			budget_time_zone = EXCLUDED.budget_time_zone`, organization, limit, day, zone)
}

// listed has those listed who used of budgets before they were set, behind all that
// there is besides, and returns how many corrections that makes.
func (c *counter) listed() int64 {
	c.t.Helper()
	c.calendar()
	c.settle()
	n, err := c.store.BeginBudgets(c.t.Context())
	require.NoError(c.t, err)
	return n
}

// begun counts all that was used of budgets before they were set, and what there
// is besides.
func (c *counter) begun() {
	c.t.Helper()
	c.listed()
	c.settle()
	c.requireBudgets()
}

// share is what a user has used of the budget of the site's organization in the
// period that has begun last.
func (c *counter) share(user uuid.UUID) int64 {
	c.t.Helper()
	return ask[int64](c.site, `SELECT coalesce((SELECT tokens_used FROM tokenalert.budget_shares
		WHERE organization_id = $1 AND user_id = $2 AND period_start <= tokenalert.now() ORDER BY period_start DESC LIMIT 1), 0)::bigint`, c.org, user)
}

// holdsBeginning holds who lists what was used of a budget, at the end of their look,
// until release; held reports whether somebody waits there.
func (c *counter) holdsBeginning() (held func() bool, release func()) {
	c.t.Helper()
	c.exec(`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''lock_timeout'', ''0'', true), pg_advisory_xact_lock(77); RETURN NULL; END'`)
	c.exec(`CREATE TRIGGER hold AFTER INSERT ON tokenalert.recounts FOR EACH ROW WHEN (NEW.cause = 'budget_begins' AND NEW.user_id IS NOT NULL) EXECUTE FUNCTION hold()`)
	holder := c.session()
	holder.exec("SELECT pg_advisory_lock(77)")
	return func() bool {
		return ask[bool](c.site, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted)")
	}, func() { holder.exec("SELECT pg_advisory_unlock(77)") }
}

// archivedBudget is a site that a down has left, with the budget of an organization.
func archivedBudget(t *testing.T) *site {
	t.Helper()
	s := migratedSite(t, host.CMS)
	s.use(s.user(0), 10)
	s.budget(s.org, 1000, 1, "UTC")
	s.workBudgets()
	s.down()
	return s
}

// Inserts do not wait while what a down has kept of budgets is copied back.
func TestUpCopiesBudgetsBackBeforeItLocks(t *testing.T) {
	t.Parallel()
	s := archivedBudget(t)
	s.exec(`CREATE FUNCTION unlocked() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
		IF EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'ai_usage_logs'::regclass
				AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')) THEN
			RAISE EXCEPTION 'inserts wait';
		END IF;
		RETURN true;
	END $$`)
	s.exec("ALTER TABLE tokenalert_archive.archived_budget_shares ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
	s.exec("CREATE POLICY each ON tokenalert_archive.archived_budget_shares USING (public.unlocked())")
	s.up()
	assert.Equal(t, 1, ask[int](s, "SELECT count(*) FROM tokenalert.budget_shares"))
}

// A dump may be restored where fewer zones are known.
func TestUpWithAnArchivedBudgetOfAnUnknownZone(t *testing.T) {
	t.Parallel()
	s := archivedBudget(t)
	s.exec("UPDATE tokenalert_archive.archived_budgets SET time_zone = 'Atlantis/Poseidonis'")
	s.up()
	assert.Equal(t, 1, ask[int](s, "SELECT count(*) FROM tokenalert.budgets"))
}

// ofBudget are the candidates of the last tick that are about budgets.
func (c *counter) ofBudget() []store.Candidate {
	return slices.DeleteFunc(slices.Clone(c.seen), func(c store.Candidate) bool { return !c.OfBudget() })
}

// As of totals: a share is counted anew at the snapshot of the chain, and not ahead.
func TestAShareIsNotCountedAheadOfABoundedTick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.budget(c.org, 1000, 1, "UTC")
	c.begun()
	for range 5 {
		c.use(user, 10)
	}
	c.exec("UPDATE ai_usage_logs SET tokens_used = 2 WHERE tokens_used = 1")
	c.slice = 3
	assert.True(t, c.tick().Bounded)
	assert.EqualValues(t, 32, c.share(user))
	c.settle()
	c.requireBudgets()

	// The same where the budget is new: whoever has used of it is counted at the
	// chain's snapshot, however much more there is to see.
	c.budget(c.org, 1000, 2, "UTC")
	c.calendar()
	c.settle()
	for range 9 {
		c.use(user, 10)
	}
	_, err := c.store.BeginBudgets(t.Context())
	require.NoError(t, err)
	assert.True(t, c.tick().Bounded)
	c.settle()
	c.requireBudgets()
}

// While it is not in force nothing is counted, and corrections are not heard.
func TestABudgetThatIsSetAgainIsCountedAnew(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	gone, stays := c.user(0), c.user(0)
	c.use(gone, 100)
	c.use(stays, 10)
	c.budget(c.org, 1000, 1, "UTC")
	c.begun()
	assert.EqualValues(t, 100, c.share(gone))
	c.budget(c.org, 0, 0, "")
	c.use(stays, 5)
	c.exec("DELETE FROM users WHERE id = $1", gone)
	c.settle()
	assert.EqualValues(t, 100, c.share(gone), "it is not in force")
	c.budget(c.org, 1000, 1, "UTC")
	c.begun()
	assert.Zero(t, c.share(gone))
	assert.EqualValues(t, 15, c.share(stays))
}

// A budget that is removed and set again looks the same to who has looked for its
// users in between.
func TestABudgetThatIsSetAgainWhileItBegins(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	one, late := c.user(0), c.user(0)
	c.use(one, 1)
	c.budget(c.org, 1000, 1, "UTC")
	c.calendar()
	c.settle()
	held, release := c.holdsBeginning()
	done := make(chan error, 1)
	begins := c.runtime()
	go func() {
		_, err := begins.BeginBudgets(context.Background())
		done <- err
	}()
	c.eventually("nobody looks", held)
	c.budget(c.org, 0, 0, "")
	c.use(late, 10)
	c.tick() // in which there is no budget
	c.budget(c.org, 1000, 1, "UTC")
	release()
	require.ErrorIs(t, <-done, store.ErrBudgetChanged)
	c.exec("DROP TRIGGER hold ON tokenalert.recounts")
	c.begun()
	assert.EqualValues(t, 10, c.share(late))
}

// Days 30 and 31 begin the same periods in months of 30 days, and end others.
func TestAPeriodThatBeginsAsOneOfAnotherCalendarEndsByItsOwn(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	year := c.now().Year() + 1
	c.db.SetNow(t, time.Date(year, 12, 5, 12, 0, 0, 0, time.UTC))
	start := time.Date(year, 11, 30, 0, 0, 0, 0, time.UTC)
	c.calendar()
	c.useAt(user, 10, start.AddDate(0, 0, 2))
	c.budget(c.org, 1000, 30, "UTC")
	c.begun()
	ends := func() time.Time {
		return ask[time.Time](c.site, "SELECT period_end FROM tokenalert.budget_periods WHERE period_start = $1", start)
	}
	assert.True(t, ends().Equal(start.AddDate(0, 1, 0)), ends())
	c.budget(c.org, 1000, 31, "UTC")
	c.calendar()
	c.count(store.Full) // before anything of it has been counted anew
	assert.True(t, ends().Equal(start.AddDate(0, 1, 1)), ends())
	c.begun()
	c.budget(c.org, 1000, 30, "UTC")
	c.begun()
	assert.True(t, ends().Equal(start.AddDate(0, 1, 0)), ends())
}

// Whether usage ahead is there before the budget is, or comes later, the budget is
// looked at when its period begins, also after a change of its calendar and a full
// count; rows that move across the beginning of a period move their tokens.
func TestUsageAheadOfABudget(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	next := time.Date(c.now().Year(), c.now().Month()+1, 1, 0, 0, 0, 0, time.UTC)
	c.useAt(user, 900, next.AddDate(0, 0, 1))
	c.use(user, 5)
	c.settle()
	c.budget(c.org, 1000, 1, "UTC")
	c.begun()
	due := func() []string {
		return c.list(`SELECT DISTINCT (due_at AT TIME ZONE 'UTC')::date::text FROM tokenalert.recounts
			WHERE organization_id = $1 AND user_id IS NULL AND cause = 'period_begins' ORDER BY 1`, c.org)
	}
	assert.Equal(t, []string{next.Format(time.DateOnly)}, due())
	c.useAt(user, 1, next.AddDate(0, 1, 1))
	c.settle()
	assert.Equal(t, []string{next.Format(time.DateOnly), next.AddDate(0, 1, 0).Format(time.DateOnly)}, due())

	c.exec("UPDATE ai_usage_logs SET created_at = now() WHERE tokens_used = 1")
	c.settle()
	c.requireBudgets()
	assert.EqualValues(t, 6, c.share(user))
	c.exec("UPDATE ai_usage_logs SET created_at = now() - interval '45 days' WHERE tokens_used = 5")
	c.settle()
	c.requireBudgets()
	assert.EqualValues(t, 1, c.share(user))
	c.count(store.Full)
	c.requireBudgets()

	c.db.SetNow(t, next.Add(time.Second))
	c.calendar()
	var seen []store.Candidate
	for range 3 {
		c.count(store.Window)
		seen = append(seen, c.ofBudget()...)
	}
	require.NotEmpty(t, seen, "the period has begun, and nobody looks at the budget")
	for _, b := range seen {
		assert.True(t, b.PeriodStart.Equal(next), b.PeriodStart)
		assert.EqualValues(t, 900, b.TokensUsed)
	}
	c.requireBudgets()
}

// Who is killed while a budget begins leaves nothing behind, and who comes next
// goes on; while somebody is at it, the other is to try again.
func TestABudgetThatBeganWithAWorkerThatDied(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.budget(c.org, 1000, 1, "UTC")
	c.calendar()
	assert.True(t, c.tick().BudgetBegins)
	locked := c.session()
	locked.exec("BEGIN")
	locked.exec("SELECT FROM tokenalert.budgets FOR UPDATE") // its last statement waits
	ctx, kill := context.WithCancel(t.Context())
	done := make(chan error, 1)
	dies := c.runtime()
	go func() {
		_, err := dies.BeginBudgets(ctx)
		done <- err
	}()
	c.eventually("nobody waits", func() bool {
		return ask[bool](c.site, `SELECT EXISTS (SELECT FROM pg_locks w JOIN pg_locks here USING (pid) JOIN pg_database d ON d.oid = here.database
			WHERE NOT w.granted AND d.datname = current_database())`)
	})
	_, err := c.store.BeginBudgets(t.Context())
	require.ErrorIs(t, err, store.ErrBeginsElsewhere)
	kill()
	require.Error(t, <-done)
	locked.exec("ROLLBACK")
	c.eventually("its session goes on", func() bool { return !c.locked() })
	assert.Zero(t, c.pending())
	c.begun()
	assert.EqualValues(t, 10, c.share(user))
	n, err := c.store.BeginBudgets(t.Context())
	require.NoError(t, err)
	assert.Zero(t, n, "it has begun")
}

// Both may take half an hour.
func TestATickWaitsNeitherForAComparisonNorForABudgetThatBegins(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.budget(c.org, 1000, 1, "UTC")
	c.calendar()
	c.settle()
	// The one waits for a lock, and the other for whoever hears how far it is.
	held, release := c.holdsBeginning()
	var long errgroup.Group
	long.Go(func() error {
		_, err := c.store.BeginBudgets(context.Background())
		return err
	})
	compares, goOn := make(chan struct{}), make(chan struct{})
	long.Go(func() error {
		_, err := c.store.Reconcile(context.Background(), c.periods, func(p store.Progress) {
			if p.Percent == 0 {
				close(compares)
				<-goOn
			}
		})
		return err
	})
	<-compares
	c.eventually("the budget does not begin", held)

	c.use(user, 5)
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	result, err := c.store.Tick(soon, c.request(store.Window), func(store.Kind, time.Time, []store.Candidate) []store.Decision { return nil })
	require.NoError(t, err)
	assert.EqualValues(t, 1, result.Rows)
	release()
	close(goOn)
	require.NoError(t, long.Wait())
}

// What is listed of a budget is not waited for where somebody is changing it, nor
// does it say that all is counted of the one that comes of it.
func TestWhoChangesABudgetThatBeginsHoldsUpNoTick(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ change, end string }{
		"another day, rolled back": {"UPDATE tokenalert.policies SET budget_reset_day = 2", "ROLLBACK"},
		"another day":              {"UPDATE tokenalert.policies SET budget_reset_day = 2", "COMMIT"},
		"another limit":            {"UPDATE tokenalert.policies SET budget = 7", "COMMIT"},
		"removed":                  {"UPDATE tokenalert.policies SET budget = NULL", "COMMIT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			c.use(c.user(0), 10)
			c.budget(c.org, 1000, 1, "UTC")
			require.EqualValues(t, 2, c.listed())
			change := c.session()
			change.exec("BEGIN")
			change.exec(tt.change)
			assert.EqualValues(t, 2, c.tick().Recounts)
			assert.False(t, ask[bool](c.site, "SELECT counted FROM tokenalert.budgets"))
			change.exec(tt.end)
			c.begun()
			assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM tokenalert.budgets WHERE NOT counted"))
		})
	}
}

func TestWhatWasListedOfABudgetSaysNothingOfTheNext(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.budget(c.org, 1000, 1, "UTC")
	c.listed()
	c.budget(c.org, 1000, 2, "UTC")
	c.calendar()
	c.settle()
	assert.False(t, ask[bool](c.site, "SELECT counted FROM tokenalert.budgets"), "nobody has listed who used of it")
	c.begun()
	assert.True(t, ask[bool](c.site, "SELECT counted FROM tokenalert.budgets"))
}

// Nobody is decided anew for a budget, which is the organization's.
func TestABudgetAsksForNoDecisionOnUsers(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	c.user(1000)
	asked := func() []string {
		causes := ask[[]string](c.site, "SELECT ARRAY(SELECT cause || CASE WHEN user_id IS NULL THEN '' ELSE ' user' END FROM tokenalert.recounts ORDER BY id)")
		c.exec("DELETE FROM tokenalert.recounts")
		return causes
	}
	asked()
	c.budget(c.org, 1000, 1, "UTC")
	assert.Equal(t, []string{"policy_changed"}, asked())
	c.budget(c.org, 2000, 2, "UTC")
	assert.Equal(t, []string{"policy_changed"}, asked())
	c.exec("UPDATE tokenalert.policies SET thresholds = '{50}'")
	assert.ElementsMatch(t, []string{"policy_changed", "policy_changed user"}, asked())
	c.budget(c.org, 0, 0, "")
	assert.Empty(t, asked())
}

// A threshold that was gained is told of anew where a later change finds all decided
// whom the policy is about, whoever else waits for a decision.
func TestOnlyTheirOwnWaitForADecisionUnderAPolicy(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		waits string
		added []int32
	}{
		"nobody":        {"SELECT id FROM users WHERE organization_id = $1 AND false", nil},
		"a member":      {"SELECT id FROM users WHERE organization_id = $1", []int32{50}},
		"somebody else": {"SELECT id FROM users WHERE organization_id <> $1", nil},
		"the budget":    {"", []int32{50}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			c.user(1000)
			other, err := host.NewOrganization(t.Context(), c.owner, "Other")
			require.NoError(t, err)
			_, err = host.NewUser(t.Context(), c.owner, host.User{Organization: other})
			require.NoError(t, err)
			c.budget(c.org, 1000, 1, "UTC")
			c.exec("UPDATE tokenalert.policies SET thresholds = '{50,80,90,100}'")
			c.exec("DELETE FROM tokenalert.recounts")
			if tt.waits == "" {
				c.exec("INSERT INTO tokenalert.recounts (organization_id, cause) VALUES ($1, 'set_aside')", c.org)
			} else {
				c.exec("INSERT INTO tokenalert.recounts (user_id, cause) SELECT w.id, 'set_aside' FROM ("+tt.waits+") w (id)", c.org)
			}
			c.exec("UPDATE tokenalert.policies SET language = 'en'")
			assert.Equal(t, tt.added, ask[[]int32](c.site, "SELECT nullif(added, '{}') FROM tokenalert.policies"))
		})
	}
}

// Two workers take what is listed, and both believe to lead: one of them collides.
func TestTwoWorkersTakeWhatABudgetBeginsWith(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.budget(c.org, 1000, 1, "UTC")
	c.listed()
	inside, goOn, done := make(chan bool), make(chan bool), make(chan error, 1)
	other := c.runtime()
	q := c.request(store.Window)
	go func() {
		_, err := other.Tick(context.Background(), q, func(store.Kind, time.Time, []store.Candidate) []store.Decision {
			close(inside)
			<-goOn
			return nil
		})
		done <- err
	}()
	<-inside
	mine := make(chan error, 1)
	go func() {
		_, err := c.store.Tick(context.Background(), q, func(store.Kind, time.Time, []store.Candidate) []store.Decision { return nil })
		mine <- err
	}()
	err := <-mine // it waits for the other's link of the chain no longer than a tick waits
	require.Error(t, err)
	assert.True(t, store.IsTransient(err) || errors.Is(err, store.ErrCollided), err)
	close(goOn)
	require.NoError(t, <-done)
	c.settle()
	c.requireBudgets()
	assert.EqualValues(t, 10, c.share(user))
}

// Shares and sums follow the calendar of every reset day, in zones whose clocks
// change, through a year of months.
func TestBudgetsFollowTheirCalendar(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	start := time.Date(c.now().Year(), c.now().Month(), c.now().Day(), 0, 0, 0, 0, time.UTC).AddDate(0, 0, 1)
	organizations := map[uuid.UUID]string{}
	for i, zone := range budgetZones {
		for day := 1 + i; day <= 31; day += len(budgetZones) {
			o, err := host.NewOrganization(t.Context(), c.owner, fmt.Sprint(zone, day))
			require.NoError(t, err)
			c.budget(o, 1000, day, zone)
			organizations[o] = zone
		}
	}
	// A row for each half hour around each midnight, in all organizations.
	c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
		SELECT $1, o.id, 1 + n % 7, $2::timestamptz + n * interval '150 minutes'
		FROM organizations o, generate_series(0, 24 * 10) AS n WHERE o.id <> $3`, user, start, c.org)
	c.begun()
	for month := range 4 {
		c.db.SetNow(t, start.AddDate(0, month, 3*month))
		c.calendar()
		c.settle()
		c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
			SELECT $1, o.id, 1, tokenalert.now() + n * interval '10 hours' FROM organizations o, generate_series(-72, 72) AS n WHERE o.id <> $2`, user, c.org)
		c.settle()
		c.requireBudgets()
		c.count(store.Full)
		c.requireBudgets()
	}
}

// Alerts, history and what is counted of budgets go through a down and an up, also
// through one that went no further than the version before; nobody is told twice.
func TestBudgetsOutliveDown(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]func(*site){
		"all the way": (*site).down,
		"one step": func(s *site) {
			m := s.migrator(pgtest.Owner, nil)
			require.NoError(s.t, m.DownOne(s.t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := migratedSite(t, host.CMS)
			user, admin := s.user(0), s.user(0)
			s.exec("UPDATE users SET role = 'admin' WHERE id = $1", admin)
			s.use(user, 850)
			s.budget(s.org, 1000, 1, "UTC")
			s.workBudgets()
			history := func() []string {
				return s.list(`SELECT row(h.*)::text FROM tokenalert.budget_history h UNION ALL SELECT row(b.*)::text FROM tokenalert.budgets b
					UNION ALL SELECT row(p.budget, p.budget_reset_day, p.budget_time_zone)::text FROM tokenalert.policies p ORDER BY 1`)
			}
			before := history()
			require.Len(t, before, 3)
			require.Equal(t, 1, s.notified(admin))

			down(s)
			assert.False(t, ask[bool](s, "SELECT to_regclass('tokenalert.budgets') IS NOT NULL"))
			s.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens) VALUES ($1, $2, 10, 10, 0)", user, s.org)
			if ask[bool](s, "SELECT to_regclass('tokenalert.ticks') IS NOT NULL") {
				// A worker of the version before has counted, and knows no budgets.
				s.exec(`INSERT INTO tokenalert.ticks (id, snapshot, system_identifier, kind, rows, users, worker, started_at)
					SELECT id + 1, pg_current_snapshot(), system_identifier, 'window', 1, 1, worker, now() FROM tokenalert.ticks ORDER BY id DESC LIMIT 1`)
			}
			s.up()
			s.workBudgets()
			assert.Equal(t, before, history())
			assert.Equal(t, 1, s.notified(admin), "told twice")
			s.requireBudgets()
			s.use(user, 60)
			s.workBudgets()
			assert.Equal(t, 2, s.notified(admin))
			s.requireBudgets()
		})
	}
}

// workBudgets is work until all budgets are counted.
func (s *site) workBudgets() {
	s.t.Helper()
	for range 100 {
		s.work()
		if !ask[bool](s, "SELECT EXISTS (SELECT FROM tokenalert.budgets WHERE NOT counted)") {
			return
		}
	}
	require.FailNow(s.t, "budgets are not counted")
}
