package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// Whatever the host does to rows and users, while budgets come, change and go, two
// workers count in ticks of few rows and few corrections, and both begin budgets
// and die over it: in the end each share, and each sum, is what the rows add up to.
func TestEveryTokenOfABudgetIsCountedOnce(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_prepared_transactions": "50"})
	for n := range 2 {
		t.Run(fmt.Sprint("storm ", n), func(t *testing.T) {
			t.Parallel()
			s := &budgetStorm{counter: counterOn(t, siteOn(t, in.New(t, pgtest.Migrated(host.CMS)))), seed: rand.Uint64()}
			t.Logf("seed %d", s.seed)
			s.run()
		})
	}
}

const (
	budgetStormFor           = 4 * time.Second // and on until all has happened
	budgetStormAtMost        = time.Minute
	budgetStormWriters       = 6
	budgetStormOrganizations = 3
	budgetStormUsers         = 12
)

// budgetZones differ in where months begin, and in when their clocks change.
var budgetZones = []string{"UTC", "America/Santiago", "Pacific/Apia", "Europe/Madrid"}

type budgetStorm struct {
	*counter
	seed          uint64
	organizations []uuid.UUID
	stop          chan struct{}

	mu    sync.Mutex
	users []uuid.UUID

	changes, begun, full, bounded, collided, otherwise, opinions atomic.Int64
}

func (s *budgetStorm) run() {
	s.t.Helper()
	s.organizations = []uuid.UUID{s.org}
	for range budgetStormOrganizations - 1 {
		other, err := host.NewOrganization(s.t.Context(), s.owner, "Other")
		require.NoError(s.t, err)
		s.organizations = append(s.organizations, other)
	}
	for range budgetStormUsers {
		s.users = append(s.users, s.user(0))
	}
	for _, organization := range s.organizations {
		s.exec("INSERT INTO tokenalert.policies (organization_id) VALUES ($1)", organization)
	}
	// It looks for a zone in all the files there are, which takes longer than all else.
	s.exec("ALTER TABLE tokenalert.policies DISABLE TRIGGER begin_budget")
	s.settle()

	s.stop = make(chan struct{})
	began := time.Now()
	goesOn := func() bool {
		lasted := time.Since(began)
		return s.t.Context().Err() == nil && (lasted < budgetStormFor || len(s.missing()) > 0 && lasted < budgetStormAtMost)
	}
	var writers, workers sync.WaitGroup
	sources := uint64(0)
	random := func() *rand.Rand { sources++; return rand.New(rand.NewPCG(s.seed, sources)) }
	for n := range budgetStormWriters {
		conn, r := s.session().owner, random()
		writers.Go(func() {
			for i := 0; goesOn(); i++ {
				if err := s.write(s.t.Context(), conn, r, fmt.Sprintf("%s_%d_%d", s.db.Name, n, i)); err != nil {
					s.t.Error("a writer of the host:", err)
					return
				}
			}
		})
	}
	for range 2 {
		owner, r := s.session().owner, random()
		writers.Go(func() {
			for goesOn() {
				if err := s.change(s.t.Context(), owner, r); err != nil {
					s.t.Error("a change of a budget:", err)
					return
				}
				s.changes.Add(1)
				time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // long enough for some to be counted

			}
		})
	}
	for range 2 { // workers
		own, counts, begins := s.runtime(), random(), random()
		workers.Go(func() {
			if err := s.ticks(s.t.Context(), own, counts); err != nil {
				s.t.Error("ticks:", err)
			}
		})
		workers.Go(func() {
			if err := s.begins(s.t.Context(), own, begins); err != nil {
				s.t.Error("beginning budgets:", err)
			}
		})
	}
	looks, opinion := s.session(), s.runtime()
	workers.Go(func() {
		for !s.stopped() {
			looks.requireSums()
			if err := s.opinion(s.t.Context(), opinion); err != nil {
				s.t.Error("reconcile:", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	writers.Wait()
	close(s.stop)
	workers.Wait()
	s.calendar()
	s.finish()
	s.requireBudgets()
	require.NoError(s.t, s.opinion(s.t.Context(), s.store))
	s.t.Logf("%d changes, %d begun, %d full counts, %d bounded ticks, %d collisions, %d with periods anew, %d shares looked at, %d rows left",
		s.changes.Load(), s.begun.Load(), s.full.Load(), s.bounded.Load(), s.collided.Load(), s.otherwise.Load(), s.opinions.Load(),
		ask[int](s.site, "SELECT count(*) FROM ai_usage_logs"))
	assert.Empty(s.t, s.missing(), "never happened")
}

// missing is what has not happened yet, without which the storm shows nothing.
func (s *budgetStorm) missing() []string {
	var names []string
	for name, n := range map[string]*atomic.Int64{
		"changes": &s.changes, "budgets begun": &s.begun, "full counts": &s.full, "bounded ticks": &s.bounded, "collisions": &s.collided,
		"ticks with periods anew": &s.otherwise, "looks at shares": &s.opinions,
	} {
		if n.Load() == 0 {
			names = append(names, name)
		}
	}
	return names
}

// opinion is the second one, in between.
func (s *budgetStorm) opinion(ctx context.Context, own *store.Store) error {
	periods, err := own.Periods(ctx, "UTC")
	if err != nil {
		return err
	}
	r, err := own.Reconcile(ctx, periods, nil)
	if errors.Is(err, store.ErrRewritten) || errors.Is(err, store.ErrOtherZone) || store.IsTransient(err) {
		return nil
	}
	if err == nil {
		assert.Empty(s.t, r.Differences)
		s.opinions.Add(1 + r.Shares)
	}
	return err
}

func (s *budgetStorm) stopped() bool {
	select {
	case <-s.stop:
		return true
	case <-s.t.Context().Done():
		return true
	default:
		return s.t.Failed()
	}
}

// finish ticks and begins until there is nothing left.
func (s *budgetStorm) finish() {
	s.t.Helper()
	for begun := int64(1); begun > 0 || ask[bool](s.site, "SELECT EXISTS (SELECT FROM tokenalert.budgets WHERE NOT counted)"); {
		var err error
		begun, err = s.store.BeginBudgets(s.t.Context())
		require.NoError(s.t, err)
		for {
			result, err := s.try(s.store, s.request(store.Window))
			if errors.Is(err, store.ErrNeedsFull) {
				result, err = s.try(s.store, s.request(store.Full))
			}
			require.NoError(s.t, err)
			if !result.Work() {
				break
			}
		}
	}
}

// requireSums holds every sum to its shares, also of budgets that are not in force
// and of periods that are over.
func (s *site) requireSums() {
	s.t.Helper()
	assert.Empty(s.t, s.list(`
		SELECT format('organization %s from %s: %s, but shares of %s', organization_id, period_start, p.tokens_used, t.tokens)
		FROM tokenalert.budget_periods p
		FULL JOIN (SELECT organization_id, period_start, sum(tokens_used) AS tokens FROM tokenalert.budget_shares GROUP BY 1, 2) t
			USING (organization_id, period_start)
		WHERE coalesce(p.tokens_used, 0) <> coalesce(t.tokens, 0)`), "sums of shares")
}

// requireBudgets compares the shares and sums of budgets in force with sums by
// plain SQL over the rows since they began.
func (s *site) requireBudgets() {
	s.t.Helper()
	s.requireSums()
	assert.Empty(s.t, s.list(`
		WITH used AS (
			SELECT l.organization_id, l.user_id, tokenalert.period_start(b.reset_day, b.time_zone, l.created_at) AS period_start, sum(l.tokens_used) AS tokens
			FROM ai_usage_logs l JOIN tokenalert.budgets b USING (organization_id) WHERE l.created_at >= b.since GROUP BY 1, 2, 3
		), counted AS (
			SELECT s.* FROM tokenalert.budget_shares s JOIN tokenalert.budgets b USING (organization_id)
			WHERE s.period_start >= b.since AND s.period_start = tokenalert.period_start(b.reset_day, b.time_zone, s.period_start)
		)
		SELECT format('organization %s from %s, user %s: counted %s, rows %s', organization_id, period_start, user_id, c.tokens_used, u.tokens)
		FROM used u FULL JOIN counted c USING (organization_id, user_id, period_start)
		WHERE coalesce(c.tokens_used, 0) <> coalesce(u.tokens, 0)
		UNION ALL
		SELECT format('organization %s from %s: ends %s, not %s', p.organization_id, p.period_start, p.period_end, tokenalert.period_end(b.reset_day, b.time_zone, p.period_start))
		FROM tokenalert.budget_periods p JOIN tokenalert.budgets b USING (organization_id)
		WHERE (p.organization_id, p.period_start) IN (SELECT organization_id, period_start FROM used)
		  AND p.period_end <> tokenalert.period_end(b.reset_day, b.time_zone, p.period_start)
		UNION ALL
		SELECT format('organization %s: not counted', organization_id) FROM tokenalert.budgets WHERE NOT counted`), "budgets")
}

func (s *budgetStorm) someone(r *rand.Rand) uuid.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[r.IntN(len(s.users))]
}

func (s *budgetStorm) organization(r *rand.Rand) uuid.UUID {
	return s.organizations[r.IntN(len(s.organizations))]
}

// at is mostly the present, else another period, or about where one begins.
func (s *budgetStorm) at(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return fmt.Sprintf("now() - interval '%d hours'", r.IntN(45*24))
	case 1:
		return fmt.Sprintf("now() + interval '%d hours'", r.IntN(75*24))
	case 2:
		return fmt.Sprintf("date_trunc('month', now()) + interval '%d minutes'", r.IntN(1440)-720)
	}
	return "now()"
}

// write is one transaction of the host. What it may not do, since others do the
// same to the same rows, is rolled back.
func (s *budgetStorm) write(ctx context.Context, conn *pgx.Conn, r *rand.Rand, name string) error {
	exec := func(sql string, args ...any) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	}
	use := func() error {
		return exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
			SELECT $1, $2, g, `+s.at(r)+` FROM generate_series(1, $3) AS g`, s.someone(r), s.organization(r), 1+r.IntN(4))
	}
	pause := func() error { return exec("SELECT pg_sleep($1)", r.Float64()/20) }
	const some = ` WHERE id IN (SELECT id FROM ai_usage_logs TABLESAMPLE system (50) LIMIT 2 FOR UPDATE SKIP LOCKED)`
	correct := func() error {
		switch r.IntN(20) {
		case 0, 1, 2, 3:
			return exec("UPDATE ai_usage_logs SET tokens_used = tokens_used + 3" + some)
		case 4, 5, 6:
			return exec("UPDATE ai_usage_logs SET user_id = $1"+some, s.someone(r))
		case 7, 8, 9:
			return exec("UPDATE ai_usage_logs SET organization_id = $1"+some, s.organization(r))
		case 10, 11, 12:
			return exec("UPDATE ai_usage_logs SET created_at = " + s.at(r) + some)
		case 13, 14:
			return exec("UPDATE users SET organization_id = $1 WHERE id = $2", s.organization(r), s.someone(r))
		case 15:
			return s.replaceUser(ctx, conn, r)
		case 16:
			if r.IntN(4) == 0 {
				return exec("TRUNCATE ai_usage_logs")
			}
			return nil
		default:
			return exec("DELETE FROM ai_usage_logs" + some)
		}
	}
	commit := func() error { return exec("COMMIT") }
	steps := []func() error{func() error { return exec("BEGIN") }, func() error { return exec("SET LOCAL lock_timeout = '300ms'") }, use}
	switch r.IntN(8) {
	case 0:
		steps = append(steps, use, correct, func() error { return exec("ROLLBACK") })
	case 1:
		steps = append(steps, func() error { return exec("SAVEPOINT one") }, use, correct, func() error { return exec("ROLLBACK TO one") },
			use, func() error { return exec("SAVEPOINT two") }, use, correct, func() error { return exec("RELEASE two") }, commit)
	case 2:
		steps = append(steps, pause, use, pause, commit)
	case 3:
		end := "COMMIT"
		if r.IntN(3) == 0 {
			end = "ROLLBACK"
		}
		steps = append(steps, correct, func() error { return exec("PREPARE TRANSACTION '" + name + "'") }, pause, func() error { return exec(end + " PREPARED '" + name + "'") })
	case 4, 5, 6:
		steps = append(steps, correct, commit)
	default:
		steps = append(steps, commit)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			// Rows locked, a user that is gone, a deadlock with another writer.
			if !store.IsTransient(err) && store.SQLState(err) != "23503" {
				return err
			}
			return exec("ROLLBACK")
		}
	}
	return nil
}

// replaceUser deletes a user with their rows, and makes another.
func (s *budgetStorm) replaceUser(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	gone := s.someone(r)
	id := uuid.New()
	if _, err := conn.Exec(ctx, `INSERT INTO users (id, organization_id, email, password_hash, full_name) VALUES ($1, $2, $3, '-', 'Ada')`,
		id, s.organization(r), id.String()); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "DELETE FROM users WHERE id = $1", gone); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.users, gone); i >= 0 && len(s.users) < 2*budgetStormUsers { // which may not commit: both are tried
		s.users = append(s.users, id)
	}
	return nil
}

// change sets, changes or removes a budget; what it sets again is as it was before.
func (s *budgetStorm) change(ctx context.Context, owner *pgx.Conn, r *rand.Rand) error {
	organization := s.organization(r)
	set := func(columns string) error {
		_, err := owner.Exec(ctx, "UPDATE tokenalert.policies SET "+columns+" WHERE organization_id = $1", organization)
		return err
	}
	const none = "budget = NULL, budget_reset_day = NULL, budget_time_zone = NULL"
	day, zone := 1+r.IntN(31), budgetZones[r.IntN(len(budgetZones))]
	const other = "budget = coalesce(budget, 500), budget_reset_day = %s, budget_time_zone = %s"
	switch r.IntN(6) {
	case 0:
		return set(none)
	case 1:
		return set("budget = 1 + coalesce(budget, 500), budget_reset_day = coalesce(budget_reset_day, 1), budget_time_zone = coalesce(budget_time_zone, 'UTC')")
	case 2:
		return set(fmt.Sprintf(other, strconv.Itoa(day), "coalesce(budget_time_zone, 'UTC')"))
	case 3:
		return set(fmt.Sprintf(other, "coalesce(budget_reset_day, 1)", "'"+zone+"'"))
	}
	var was string
	err := owner.QueryRow(ctx, `SELECT format('budget = %s, budget_reset_day = %s, budget_time_zone = %L', budget, budget_reset_day, budget_time_zone)
		FROM tokenalert.policies WHERE organization_id = $1 AND budget IS NOT NULL`, organization).Scan(&was)
	if errors.Is(err, pgx.ErrNoRows) {
		was, err = fmt.Sprintf("budget = 700, budget_reset_day = %d, budget_time_zone = '%s'", day, zone), nil
	}
	if err == nil {
		err = set(none)
	}
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
	return set(was)
}

// ticks counts as a worker that believes that it leads.
func (s *budgetStorm) ticks(ctx context.Context, own *store.Store, r *rand.Rand) error {
	periods, err := own.Periods(ctx, "UTC")
	if err != nil {
		return err
	}
	kind := store.Full // as for other settings
	for !s.stopped() {
		if r.IntN(50) == 0 {
			kind = store.Full
		}
		q := s.request(kind)
		q.Periods, q.Slice = periods, 1+r.Int64N(6)
		q.Corrected = 1 + r.Int64N(30)
		result, err := own.Tick(ctx, q, func(store.Kind, time.Time, []store.Candidate) []store.Decision {
			return nil
		})
		switch {
		case errors.Is(err, store.ErrNeedsFull):
			kind = store.Full
			continue
		case errors.Is(err, store.ErrRewritten):
			kind = store.Full
			continue
		case errors.Is(err, store.ErrOtherZones):
			s.otherwise.Add(1)
			if periods, err = own.Periods(ctx, "UTC"); err != nil {
				return err
			}
			continue
		case errors.Is(err, store.ErrCollided):
			s.collided.Add(1)
		case err != nil && !store.IsTransient(err):
			return err
		case err == nil && kind == store.Full:
			s.full.Add(1)
			kind = store.Window
		case result.Bounded:
			s.bounded.Add(1)
		}
		if r.IntN(20) == 0 {
			if periods, err = own.Periods(ctx, "UTC"); err != nil { // which may be stale when they are used
				return err
			}
			time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
		}
	}
	return nil
}

// begins begins budgets, and at times dies over it.
func (s *budgetStorm) begins(ctx context.Context, own *store.Store, r *rand.Rand) error {
	for !s.stopped() {
		within := time.Minute
		if r.IntN(3) == 0 {
			within = time.Duration(r.IntN(8000)) * time.Microsecond
		}
		beginning, cancel := context.WithTimeout(ctx, within)
		n, err := own.BeginBudgets(beginning)
		died := beginning.Err() != nil
		cancel()
		s.begun.Add(n)
		if err != nil && !died && !store.IsTransient(err) && !errors.Is(err, store.ErrBudgetChanged) && !errors.Is(err, store.ErrBeginsElsewhere) {
			return err
		}
		time.Sleep(time.Duration(r.IntN(15)) * time.Millisecond)
	}
	return nil
}
