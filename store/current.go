package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// currentPeriods are everybody's current periods: one for each reset day, and
// the day of those users whose day is not the first.
type currentPeriods struct {
	byDay map[int32]period
	days  map[uuid.UUID]int32
}

type period struct{ start, end time.Time }

func (p period) has(at time.Time) bool { return !at.Before(p.start) && at.Before(p.end) }

func readCurrentPeriods(ctx context.Context, tx pgx.Tx, p *Periods, now time.Time) (*currentPeriods, error) {
	c := &currentPeriods{byDay: map[int32]period{}, days: map[uuid.UUID]int32{}}
	rows, err := tx.Query(ctx, "SELECT user_id, reset_day FROM tokenalert.accounts() WHERE reset_day <> 1")
	if err != nil {
		return nil, fmt.Errorf("read reset days: %w", err)
	}
	used := map[int32]bool{1: true} // also by users who are gone
	var user uuid.UUID
	var day int32
	_, err = pgx.ForEachRow(rows, []any{&user, &day}, func() error {
		c.days[user] = day
		used[day] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read reset days: %w", err)
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
