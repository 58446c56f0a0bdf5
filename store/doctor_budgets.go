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
// them is counted, or because there is nobody. And for those that are not in force
// as their policies set them, which keep tokenalert.budgets by a trigger.
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
	if err := findOtherBudgets(ctx, tx, x); err != nil {
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

// findOtherBudgets looks for budgets in force that are not those of policies:
// somebody has changed a row, or the trigger did not run.
func findOtherBudgets(ctx context.Context, tx pgx.Tx, x *Examined) error {
	rows, err := tx.Query(ctx, `
		SELECT coalesce(p.organization_id, b.organization_id), p.budget, p.budget_reset_day, p.budget_time_zone, b.organization_id IS NULL
		FROM (SELECT * FROM tokenalert.policies WHERE budget IS NOT NULL) p FULL JOIN tokenalert.budgets b USING (organization_id)
		WHERE (p.budget, p.budget_reset_day, p.budget_time_zone) IS DISTINCT FROM (b.token_limit, b.reset_day, b.time_zone)
		ORDER BY 1 LIMIT 100`)
	if err != nil {
		return err
	}
	var said, commands []string
	var organization uuid.UUID
	var budget *int64
	var day *int32
	var zone *string
	var missing bool
	_, err = pgx.ForEachRow(rows, []any{&organization, &budget, &day, &zone, &missing}, func() error {
		if budget == nil {
			said = append(said, fmt.Sprintf("%s has one in force that no policy sets", organization))
			commands = append(commands, fmt.Sprintf("DELETE FROM tokenalert.budgets WHERE organization_id = '%s';", organization))
			return nil
		}
		how := "has another in force"
		if missing {
			how = "has none in force"
		}
		said = append(said, fmt.Sprintf("%s %s", organization, how))
		commands = append(commands, fmt.Sprintf("tokenalert policy set --organization %s --budget %d --budget-reset-day %d --budget-time-zone %s",
			organization, *budget, *day, shellWord(*zone)))
		return nil
	})
	if err != nil || len(said) == 0 {
		return err
	}
	x.find(Broken, plural(len(said), "budget is not in force as its policy sets it", "budgets are not in force as their policies set them")+
		", so its admins are told at other times, or not: organization "+some(said),
		"somebody has changed tokenalert.budgets, or the trigger budget of tokenalert.policies was off; set it again as it is, as the owner of ai_usage_logs:",
		commands[:min(len(commands), few)]...)
	return nil
}
