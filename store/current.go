package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// currentPeriods are everybody's current periods: one for each reset day, the
// day of those users whose day is not the first, and those of budgets of which all
// is counted. The days of another zone than the settings' come after those before
// it.
type currentPeriods struct {
	byDay map[int32]period
	days  map[uuid.UUID]int32
	// budgets are the days of organizations'.
	budgets map[uuid.UUID]int32
}

type period struct{ start, end time.Time }

func (p period) has(at time.Time) bool { return !at.Before(p.start) && at.Before(p.end) }

func readCurrentPeriods(ctx context.Context, tx pgx.Tx, p *Periods, now time.Time) (*currentPeriods, error) {
	c := &currentPeriods{byDay: map[int32]period{}, days: map[uuid.UUID]int32{}, budgets: map[uuid.UUID]int32{}}
	rows, err := tx.Query(ctx, `
		SELECT user_id, reset_day + 31 * (place - 1) FROM (
			SELECT a.user_id, a.reset_day, CASE WHEN coalesce(u.time_zone, o.time_zone) IS NULL THEN 1
			       ELSE `+placeInZones("coalesce(u.time_zone, o.time_zone)")+` END AS place
			FROM tokenalert.accounts() a LEFT JOIN tokenalert.policies u ON u.user_id = a.user_id
			LEFT JOIN tokenalert.policies o ON o.organization_id = a.organization_id OFFSET 0
		) a WHERE reset_day <> 1 OR place IS DISTINCT FROM 1`, p.zones)
	if err != nil {
		return nil, fmt.Errorf("read reset days: %w", err)
	}
	used := map[int32]bool{1: true} // also by users who are gone
	var user uuid.UUID
	var place *int32
	_, err = pgx.ForEachRow(rows, []any{&user, &place}, func() error {
		if place == nil { // the zone of a policy that is newer than the bounds
			return ErrOtherZone
		}
		c.days[user] = *place
		used[*place] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read reset days: %w", err)
	}
	if err := c.readBudgets(ctx, tx, p); err != nil {
		return nil, err
	}
	for _, place := range c.budgets {
		used[place] = true
	}
	for day := range used {
		found := false
		for i := boundsPerDay * (day - 1); i < boundsPerDay*day-1; i++ {
			if current := (period{p.bounds[i], p.bounds[i+1]}); current.has(now) {
				c.byDay[day], found = current, true
			}
		}
		if !found {
			return nil, fmt.Errorf("the bounds of periods do not cover %s", now.UTC().Format(time.RFC3339))
		}
	}
	return c, nil
}

// placeInZones is where $1, Periods.zones, has a zone, or NULL: one that the
// server does not know stands for that of the settings.
func placeInZones(zone string) string {
	return `CASE WHEN '` + unknownZone + `' || ` + zone + ` = ANY ($1::text[]) THEN 1 ELSE array_position($1::text[], ` + zone + `) END`
}

func (c *currentPeriods) readBudgets(ctx context.Context, tx pgx.Tx, p *Periods) error {
	rows, err := tx.Query(ctx, `SELECT organization_id, reset_day + 31 * (`+placeInZones("time_zone")+` - 1)
		FROM tokenalert.budgets WHERE counted`, p.zones)
	if err != nil {
		return fmt.Errorf("read budgets: %w", err)
	}
	var organization uuid.UUID
	var place *int32
	_, err = pgx.ForEachRow(rows, []any{&organization, &place}, func() error {
		if place == nil { // newer than the bounds
			return ErrOtherZone
		}
		c.budgets[organization] = *place
		return nil
	})
	if err != nil {
		return fmt.Errorf("read budgets: %w", err)
	}
	return nil
}

// ofBudget is the current period of an organization's budget, where it has one of
// which all is counted.
func (c *currentPeriods) ofBudget(organization uuid.UUID) (period, bool) {
	place, ok := c.budgets[organization]
	return c.byDay[place], ok
}

// of is a user's current period.
func (c *currentPeriods) of(user uuid.UUID) period {
	if day, ok := c.days[user]; ok {
		return c.byDay[day]
	}
	return c.byDay[1]
}

// span is the time that all of them together cover.
func (c *currentPeriods) span() period {
	span := c.byDay[1]
	for _, p := range c.byDay {
		if p.start.Before(span.start) {
			span.start = p.start
		}
		if p.end.After(span.end) {
			span.end = p.end
		}
	}
	return span
}

// starts are their beginnings.
func (c *currentPeriods) starts() []time.Time {
	var starts []time.Time
	for _, p := range c.byDay {
		starts = append(starts, p.start)
	}
	return starts
}
