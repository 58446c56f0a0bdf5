package store

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pendingCounts are the users who are about to be counted anew, or all of them.
// A decision that waits, or a period that is to begin, explains no difference.
func pendingCounts(ctx context.Context, tx pgx.Tx) (map[uuid.UUID]bool, bool, error) {
	pending, everybody := map[uuid.UUID]bool{}, false
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT user_id FROM tokenalert.recounts
		WHERE organization_id IS NULL AND user_id IS NULL OR user_id IS NOT NULL AND at IS NOT NULL AND cause <> 'budget_begins' AND (due_at IS NULL OR due_at <= tokenalert.now())`)
	if err != nil {
		return nil, false, fmt.Errorf("look for pending counts: %w", err)
	}
	var user *uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&user}, func() error {
		if user == nil {
			everybody = true
		} else {
			pending[*user] = true
		}
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("look for pending counts: %w", err)
	}
	return pending, everybody, nil
}

// compare holds the totals of current periods to what the rows add up to, which
// it takes out of actual.
func (r *Reconciled) compare(ctx context.Context, tx pgx.Tx, current *currentPeriods, pending map[uuid.UUID]bool, actual *sums) error {
	rows, err := tx.Query(ctx, `SELECT user_id, period_start, ceil(tokens_used) FROM tokenalert.usage_periods
		WHERE period_start = ANY ($1::timestamptz[])`, current.starts())
	if err != nil {
		return fmt.Errorf("read the totals: %w", err)
	}
	compare := func(user uuid.UUID, start time.Time, counted, actual *big.Int) {
		if pending[user] {
			return
		}
		r.Users++
		if counted.Cmp(actual) != 0 {
			r.Differences = append(r.Differences, Difference{user, start, clamped(counted), clamped(actual)})
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
	slices.SortFunc(r.Differences, func(a, b Difference) int { return bytes.Compare(a.UserID[:], b.UserID[:]) })
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
