package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/demo"
	"tokenalert/internal/host"
	"tokenalert/store"
	"tokenalert/worker"
)

// growthLimit leaves room: a call of a tenth of the limit takes a user over the
// next tenth, so that everybody can cross ten times, and all other calls, those
// of the history too, come to less than a tenth.
func growthLimit(_, used int) int { return max(1_000_000, 20*used) }

// growthTransactions is how many transactions the rows of a tick come in, at
// the most.
const growthTransactions = 20

// A grower is a database whose ticks this process takes, one by one, by the
// statements of the product.
type grower struct {
	*database
	setting
	store   *store.Store
	periods *store.Periods
	writer  *pgx.Conn
	order   []user // in which they use tokens, over and over
	next    int
	process int // of the server, that the ticks run in
}

// countOnce installs tokenalert in a template and has all of it counted. It
// leaves the statistics as they would come by themselves.
func (b *bench) countOnce(ctx context.Context, t *template) error {
	db := &database{bench: b, name: t.name}
	if err := (tokenalert{}).install(ctx, db); err != nil {
		return err
	}
	w := &grower{database: db}
	if err := w.open(ctx); err != nil {
		return err
	}
	if _, err := w.store.Tick(ctx, w.request(store.First), w.decide); err != nil {
		return err
	}
	w.store.Close()
	_, err := w.writer.Exec(ctx, "VACUUM ANALYZE")
	return errors.Join(err, w.writer.Close(ctx))
}

func (w *grower) open(ctx context.Context) error {
	var err error
	if w.writer, err = pgx.Connect(ctx, w.hostURL()); err != nil {
		return err
	}
	if w.store, err = store.Open(w.server.URLAs(demo.WorkerRole, w.name), ""); err != nil {
		return err
	}
	w.periods, err = w.store.Periods(ctx, "UTC")
	return err
}

func (g *growth) newGrower(ctx context.Context, s setting) (*grower, error) {
	db, err := g.clone(ctx, g.templates[s.database()], baseline) // which adds nothing
	if err != nil {
		return nil, err
	}
	// How long the disk takes depends on nothing here, and would hide the rest.
	if err := db.set(ctx, map[string]string{"synchronous_commit": "off"}); err != nil {
		return nil, err
	}
	w := &grower{database: db, setting: s, order: slices.Clone(db.users)}
	rand.Shuffle(len(w.order), func(i, j int) { w.order[i], w.order[j] = w.order[j], w.order[i] })
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	return w, errors.Join(w.budget(ctx), w.correct(ctx), w.alert(ctx))
}

// correct has everybody corrected, over and over, and deals with it.
func (w *grower) correct(ctx context.Context) error {
	if w.Corrections == 0 {
		return nil
	}
	_, err := w.writer.Exec(ctx, `INSERT INTO tokenalert.recounts (user_id, cause)
		SELECT id, 'limit_changed' FROM users, generate_series(1, $1)`, w.Corrections/w.Users)
	if err == nil {
		err = w.settle(ctx)
	}
	return err
}

// settle takes ticks until there is no correction left.
func (w *grower) settle(ctx context.Context) error {
	for {
		result, err := w.store.Tick(ctx, w.request(store.Window), w.decide)
		if err != nil {
			return err
		}
		if !result.Work() {
			break
		}
	}
	_, err := w.writer.Exec(ctx, "VACUUM ANALYZE tokenalert.recounts")
	return err
}

// budget gives organizations a budget, and has what was used of it counted.
func (w *grower) budget(ctx context.Context) error {
	if w.Budgets == 0 {
		return nil
	}
	_, err := w.writer.Exec(ctx, `INSERT INTO tokenalert.policies (organization_id, budget)
		SELECT id, 1000000000000 FROM organizations ORDER BY id LIMIT $1`, w.Budgets) // so much that nobody is told
	if err != nil {
		return err
	}
	if w.periods, err = w.store.Periods(ctx, "UTC"); err != nil {
		return err
	}
	if _, err := w.store.BeginBudgets(ctx); err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	var counted int
	if err := w.writer.QueryRow(ctx, "SELECT count(*) FROM tokenalert.current_budgets WHERE counted AND tokens_used > 0").Scan(&counted); err != nil {
		return err
	}
	if counted != w.Budgets {
		return fmt.Errorf("%d of %d budgets are counted", counted, w.Budgets)
	}
	_, err = w.writer.Exec(ctx, "VACUUM ANALYZE tokenalert.budget_shares, tokenalert.budget_periods")
	return err
}

// alertedUsers are more than ticks of a run come to, where each is of few rows.
const alertedUsers = 2000

// alert writes alerts of earlier months, three in each.
func (w *grower) alert(ctx context.Context) error {
	if w.Alerts == 0 {
		return nil
	}
	var ids []uuid.UUID
	for _, u := range w.order[:min(alertedUsers, len(w.order))] {
		ids = append(ids, u.id)
	}
	_, err := w.writer.Exec(ctx, `
		INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, sent_at, period_start, period_end, token_limit)
		SELECT u.id, u.organization_id, threshold, true, m.start, m.start, m.start + interval '1 month', u.monthly_token_limit
		FROM generate_series(1, $2) AS n,
		     LATERAL (SELECT date_trunc('month', now(), 'UTC') - make_interval(months => n) AS start) m,
		     unnest('{80,90,100}'::integer[]) AS threshold, users u
		WHERE u.id = ANY ($1)
		ORDER BY n DESC, random()`, ids, w.Alerts/3) // each month on pages of its own
	if err != nil {
		return err
	}
	_, err = w.writer.Exec(ctx, "VACUUM ANALYZE token_limit_alerts")
	return err
}

// drop takes the database away.
func (w *grower) drop(ctx context.Context) error {
	w.store.Close()
	if err := w.writer.Close(ctx); err != nil {
		return err
	}
	return w.database.drop(ctx)
}

// request is the worker's. What it adapts to the machine is as at its start.
func (w *grower) request(kind store.Kind) store.TickRequest {
	return store.TickRequest{
		Kind: kind, Periods: w.periods, Floor: 10, Slice: 100_000, Decisions: 10_000, Worker: "bench", IdleTimeout: 10 * time.Second,
	}
}

// decide tells whoever has come over another tenth of their limit.
func (w *grower) decide(_ store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
	var decisions []store.Decision
	words := worker.BuiltInWords(worker.Spanish)
	for _, c := range candidates {
		threshold := int32(c.TokensUsed*10/c.TokenLimit) * 10
		if threshold == 0 || slices.Contains(c.Marks, threshold) {
			continue
		}
		m := words.Render(worker.Notice{
			FullName: c.FullName, Threshold: int(threshold), TokensUsed: c.TokensUsed, TokenLimit: c.TokenLimit,
			PeriodStart: c.PeriodStart, PeriodEnd: c.PeriodEnd, Now: now,
		})
		decisions = append(decisions, store.Decision{
			UserID: c.UserID, PeriodStart: c.PeriodStart, Marks: append(c.Marks, threshold),
			Alerts: []store.Alert{{
				ID: uuid.New(), NotificationID: uuid.New(), OrganizationID: c.OrganizationID, PeriodEnd: c.PeriodEnd,
				Threshold: threshold, TokenLimit: c.TokenLimit, TokensUsed: c.TokensUsed,
				PercentTenths: worker.PercentTenths(c.TokensUsed, c.TokenLimit),
				Title:         m.Title, Body: m.Body, Link: "/admin/token-usage", Newest: c.Newest,
			}},
		})
	}
	return decisions
}

// write logs the calls of the next users.
func (w *grower) write(ctx context.Context) error {
	if w.next+w.Rows > len(w.order) {
		w.next = 0
	}
	users := w.order[w.next : w.next+w.Rows]
	w.next += w.Rows
	n := min(growthTransactions, w.Rows)
	for t := range n {
		from := t * w.Rows / n
		err := logCalls(ctx, w.writer, (t+1)*w.Rows/n-from, func(i int) (user, int, time.Time) {
			u, tokens := users[from+i], 1+rand.IntN(tokensPerCall)
			if from+i < w.Crossings {
				tokens = u.limit / 10
			}
			return u, tokens, time.Now()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// hold opens the transactions, which end when the returned function is called.
func (w *grower) hold(ctx context.Context) (release func(), err error) {
	held := make([]*pgx.Conn, w.Open)
	release = func() {
		var group errgroup.Group
		for _, conn := range held {
			if conn != nil {
				group.Go(func() error {
					_, err := conn.Exec(ctx, "ROLLBACK")
					return errors.Join(err, conn.Close(ctx))
				})
			}
		}
		_ = group.Wait() // an end of the session is an end as well
	}
	group, ctx2 := errgroup.WithContext(ctx)
	group.SetLimit(growthTransactions)
	for i := range held {
		group.Go(func() error {
			conn, err := pgx.Connect(ctx2, w.hostURL())
			if err != nil {
				return err
			}
			held[i] = conn
			if _, err := conn.Exec(ctx2, "BEGIN"); err != nil {
				return err
			}
			u := w.order[i%len(w.order)]
			return host.LogUsage(ctx2, conn, u.id, u.organization, 1)
		})
	}
	return release, group.Wait()
}
