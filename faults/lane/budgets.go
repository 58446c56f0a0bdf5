package lane

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
)

// setBudget sets the budget of an organization, nil for none, as a command would,
// and returns it as it counts from then on.
func setBudget(ctx context.Context, tx pgx.Tx, organization uuid.UUID, b *plan.Budget) (*oracle.Budget, error) {
	var limit, day *int
	var zone *string
	var set *oracle.Budget
	if b != nil {
		limit, day, zone = &b.Limit, &b.ResetDay, &b.Zone
		set = &oracle.Budget{Limit: int64(b.Limit), ResetDay: b.ResetDay}
		var err error
		if set.Zone, err = time.LoadLocation(b.Zone); err != nil {
			return nil, err
		}
		if err := tx.QueryRow(ctx, "SELECT tokenalert.now()").Scan(&set.At); err != nil {
			return nil, err
		}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO tokenalert.policies (organization_id, budget, budget_reset_day, budget_time_zone, added, version, changed_at)
		VALUES ($1, $2, $3, $4, '{}', 0, now())
		ON CONFLICT (organization_id) DO UPDATE
		SET budget = EXCLUDED.budget, budget_reset_day = EXCLUDED.budget_reset_day, budget_time_zone = EXCLUDED.budget_time_zone`,
		organization, limit, day, zone)
	return set, err
}

// beginBudgets sets those that there are from the beginning.
func (s *site) beginBudgets(ctx context.Context) error {
	s.budgets = map[uuid.UUID]oracle.Budget{}
	if !s.plan.Budgets() {
		return nil
	}
	conn, err := pgx.Connect(ctx, s.ownerURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for i, o := range s.plan.Organizations {
			if o.Budget == nil {
				continue
			}
			b, err := setBudget(ctx, tx, s.organizations[i], o.Budget)
			if err != nil {
				return err
			}
			s.budgets[s.organizations[i]] = *b
		}
		return nil
	})
}

// changeBudget has a writer set a budget, or take it away.
func (w *writer) changeBudget(ctx context.Context, op plan.Op) {
	organization := w.organizations[op.Organization]
	w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error {
		var there bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM organizations WHERE id = $1)", organization).Scan(&there); err != nil {
			return err
		}
		if !there {
			return errNothing
		}
		b, err := setBudget(ctx, tx, organization, op.Budget)
		c.Budget = map[uuid.UUID]*oracle.Budget{organization: b}
		return err
	})
}

// readBudgets reads all that the oracle asks for of budgets.
func (s *site) readBudgets(ctx context.Context, tx pgx.Tx, db *oracle.Database) error {
	if !s.plan.Budgets() {
		return nil
	}
	var b oracle.BudgetInForce
	if err := forEach(ctx, tx, "SELECT organization_id, token_limit, reset_day, time_zone, since, counted FROM tokenalert.budgets",
		[]any{&b.Organization, &b.Limit, &b.ResetDay, &b.Zone, &b.Since, &b.Counted}, func() { db.Budgets = append(db.Budgets, b) }); err != nil {
		return err
	}
	var share oracle.Share
	if err := forEach(ctx, tx, "SELECT organization_id, user_id, period_start, tokens_used::bigint FROM tokenalert.budget_shares",
		[]any{&share.Organization, &share.User, &share.Start, &share.Tokens}, func() { db.Shares = append(db.Shares, share) }); err != nil {
		return err
	}
	var t oracle.BudgetTotal
	if err := forEach(ctx, tx, "SELECT organization_id, period_start, tokens_used::bigint FROM tokenalert.budget_periods",
		[]any{&t.Organization, &t.Start, &t.Tokens}, func() { db.BudgetTotals = append(db.BudgetTotals, t) }); err != nil {
		return err
	}
	var a oracle.BudgetAlert
	var worker string
	return forEach(ctx, tx, `SELECT a.id, a.organization_id, a.period_start, a.alert_threshold, a.token_limit, a.tokens_used::bigint, a.alert_sent,
		a.created_at, coalesce(a.reason, ''), a.notification_id, a.admins_told, coalesce(t.worker, '')
		FROM tokenalert.budget_alerts a LEFT JOIN tokenalert.ticks t ON t.id = a.tick_id`,
		[]any{&a.ID, &a.Organization, &a.Start, &a.Threshold, &a.Limit, &a.Used, &a.Sent, &a.CreatedAt, &a.Reason, &a.Notification, &a.Admins, &worker},
		func() {
			a.Channels = s.channelsOf(worker, a.CreatedAt)
			db.BudgetAlerts = append(db.BudgetAlerts, a)
		})
}
