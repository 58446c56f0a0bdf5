package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// uncountedAfter is how long a budget may take to be counted: what it takes is
// reading the rows of its organization.
const uncountedAfter = 15 * time.Minute

// examineBudgets looks for budgets of which nobody is told: because not all of
// them is counted, or because there is nobody.
func examineBudgets(ctx context.Context, _ *examination, tx pgx.Tx, x *Examined) error {
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('tokenalert.budgets') IS NOT NULL`).Scan(&there); err != nil {
		return err
	}
	if !there {
		x.Skipped = "the schema has no budgets yet"
		return nil
	}
	var all, uncounted, alone int
	var first, lonely *uuid.UUID
	err := tx.QueryRow(ctx, `
		SELECT count(*), count(*) FILTER (WHERE late), (array_agg(organization_id) FILTER (WHERE late))[1],
		       count(*) FILTER (WHERE alone), (array_agg(organization_id) FILTER (WHERE alone))[1]
		FROM (
			SELECT b.organization_id, NOT b.counted AND p.changed_at < clock_timestamp() - $1::interval AS late,
			       NOT EXISTS (SELECT FROM tokenalert.admins(b.organization_id)) AS alone
			FROM tokenalert.budgets b JOIN tokenalert.policies p USING (organization_id) ORDER BY 1
		) b`, uncountedAfter).Scan(&all, &uncounted, &first, &alone, &lonely)
	if err != nil {
		return err
	}
	x.Well = "none"
	if all > 0 {
		x.Well = plural(all, "budget", "budgets") + ", counted and with admins to tell"
	}
	if uncounted > 0 {
		x.find(Warning, fmt.Sprintf("%s, set over %d minutes ago: until all is counted nobody is told; organization %s, for one",
			plural(uncounted, "budget is not counted", "budgets are not counted"), int(uncountedAfter.Minutes()), first),
			"keep a worker running; where one does, its log says at budget.begun what is in the way")
	}
	if alone > 0 {
		x.find(Warning, fmt.Sprintf("%s: the organization has no user with the role admin, or is gone, so nobody has a notification, and a webhook alone is told, where one is set up; organization %s, for one",
			plural(alone, "budget is nobody's", "budgets are nobody's"), lonely),
			"give a user of the organization the role admin in the host, or remove the budget, as the owner of ai_usage_logs:",
			fmt.Sprintf("UPDATE tokenalert.policies SET budget = NULL WHERE organization_id = '%s';", lonely))
	}
	return nil
}
