package store

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pendingCounts are the users who are about to be counted anew, the shares among
// them, and the budgets whose shares are about to be added up; or everybody.
func pendingCounts(ctx context.Context, tx pgx.Tx) (*pending, error) {
	p := &pending{users: map[uuid.UUID]bool{}, shares: map[share]bool{}}
	// A decision that waits, or a period that is to begin, explains no difference.
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT r.user_id, r.organization_id FROM tokenalert.recounts r, (SELECT tokenalert.now() AS at) here
		WHERE r.user_id IS NULL AND (r.organization_id IS NULL OR r.cause = '`+CauseReconcile+`')
		   OR `+countsUser)
	if err != nil {
		return nil, fmt.Errorf("look for pending counts: %w", err)
	}
	var user, organization *uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&user, &organization}, func() error {
		if user != nil {
			p.users[*user] = true
		}
		if organization != nil {
			of := share{organization: *organization}
			if user != nil {
				of.user = *user
			}
			p.shares[of] = true
		}
		p.everybody = p.everybody || user == nil && organization == nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for pending counts: %w", err)
	}
	return p, nil
}

type pending struct {
	users     map[uuid.UUID]bool
	shares    map[share]bool
	everybody bool
}

// A share is a user's of an organization's budget; without a user, the sum.
type share struct{ organization, user uuid.UUID }

// compare holds the totals of current periods to what the rows add up to, which
// it takes out of actual.
func (r *Reconciled) compare(ctx context.Context, tx pgx.Tx, current *currentPeriods, pending *pending, actual *sums[uuid.UUID]) error {
	rows, err := tx.Query(ctx, `SELECT user_id, period_start, ceil(tokens_used) FROM tokenalert.usage_periods
		WHERE period_start = ANY ($1::timestamptz[])`, current.starts())
	if err != nil {
		return fmt.Errorf("read the totals: %w", err)
	}
	compare := func(user uuid.UUID, start time.Time, counted, actual *big.Int) {
		if pending.users[user] {
			return
		}
		r.Users++
		if counted.Cmp(actual) != 0 {
			r.Differences = append(r.Differences, Difference{user, uuid.Nil, start, clamped(counted), clamped(actual)})
		}
	}
	var (
		user   uuid.UUID
		start  time.Time
		tokens pgtype.Numeric
	)
	_, err = pgx.ForEachRow(rows, []any{&user, &start, &tokens}, func() error {
		if start.Equal(current.of(user).start) {
			compare(user, start, whole(tokens), actual.take(user))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the totals: %w", err)
	}
	for user, sum := range actual.all() { // who have no total
		compare(user, current.of(user).start, new(big.Int), sum)
	}
	return nil
}

// compareShares holds the shares of budgets to what the rows add up to, and the
// sums of budgets to their shares.
func (r *Reconciled) compareShares(ctx context.Context, tx pgx.Tx, current *currentPeriods, pending *pending, actual *sums[share]) error {
	r.Budgets = int64(len(current.budgets))
	if r.Budgets == 0 {
		return nil
	}
	compare := func(of share, start time.Time, counted, actual *big.Int) {
		if !pending.shares[of] && counted.Cmp(actual) != 0 {
			r.Differences = append(r.Differences, Difference{of.user, of.organization, start, clamped(counted), clamped(actual)})
		}
	}
	// each reads a table that has the tokens of current periods.
	each := func(table, user string, do func(of share, start time.Time, counted *big.Int)) error {
		rows, err := tx.Query(ctx, `SELECT organization_id, `+user+`, period_start, ceil(tokens_used) FROM tokenalert.`+table+`
			WHERE organization_id = ANY ($1::uuid[]) AND period_start = ANY ($2::timestamptz[])`,
			slices.Collect(maps.Keys(current.budgets)), current.starts())
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		var of share
		var start time.Time
		var tokens pgtype.Numeric
		_, err = pgx.ForEachRow(rows, []any{&of.organization, &of.user, &start, &tokens}, func() error {
			if period, _ := current.ofBudget(of.organization); start.Equal(period.start) {
				do(of, start, whole(tokens))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		return nil
	}
	counted := map[uuid.UUID]*big.Int{}
	for organization := range current.budgets {
		counted[organization] = new(big.Int)
	}
	err := each("budget_shares", "user_id", func(of share, start time.Time, tokens *big.Int) {
		r.Shares++
		compare(of, start, tokens, actual.take(of))
		counted[of.organization].Add(counted[of.organization], tokens)
	})
	if err != nil {
		return err
	}
	for of, sum := range actual.all() { // without a share
		r.Shares++
		period, _ := current.ofBudget(of.organization)
		compare(of, period.start, new(big.Int), sum)
	}
	err = each("budget_periods", "'00000000-0000-0000-0000-000000000000'::uuid", func(of share, start time.Time, tokens *big.Int) {
		compare(of, start, tokens, counted[of.organization])
		delete(counted, of.organization)
	})
	if err != nil {
		return err
	}
	for organization, sum := range counted { // without a sum
		period, _ := current.ofBudget(organization)
		compare(share{organization: organization}, period.start, new(big.Int), sum)
	}
	return nil
}

// whole is a total, which has no fraction: 1200 comes as 12 and an exponent of 2.
// NaN, which nobody but a person can have put there, is 0.
func whole(n pgtype.Numeric) *big.Int {
	if n.Int == nil {
		return new(big.Int)
	}
	return new(big.Int).Mul(n.Int, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n.Exp)), nil))
}
