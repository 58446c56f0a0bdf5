package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Periods are the bounds of the periods around now for each reset day, worked
// out once and handed to every tick, instead of once per row or user. They are
// facts of the calendar: a tick that uses them a little after a period has
// ended still places every row right. Rows outside of what they cover call
// tokenalert.period_start.
type Periods struct {
	zones      []string // that of the settings, and those of policies and budgets; then unknown ones, see unknownZone
	budgets    bool     // there are some
	begins     bool     // not all is counted of one of them
	validUntil time.Time

	// Five for each reset day of each zone, ascending: the starts of the period before the
	// previous one, the previous, the current and the next, and the next one's
	// end. Totals are complete from the second on.
	bounds []time.Time

	// As every tick sends them: edges, of which two consecutive ones enclose no
	// period's start for any reset day, bounds, and zones.
	sent []any
}

// instantsOf are times as a parameter. pgx writes pointers to what it knows as they
// are, where it would take memory twice for each time.Time.
func instantsOf(times []time.Time) pgtype.FlatArray[*pgtype.Timestamptz] {
	instants := make(pgtype.FlatArray[*pgtype.Timestamptz], len(times))
	for i, t := range times {
		instants[i] = &pgtype.Timestamptz{Time: t, Valid: true}
	}
	return instants
}

// boundsPerDay is how many bounds each reset day has.
const boundsPerDay = 5

// ValidUntil is the first instant at which some period ends; from then on the
// bounds should be worked out anew.
func (p *Periods) ValidUntil() time.Time { return p.validUntil }

// BudgetBegins says that not all was counted of some budget: see BeginBudgets.
func (p *Periods) BudgetBegins() bool { return p.begins }

// unknownZone begins the name of a zone that the server does not know: it may have
// lost it, or the database come from another. It has no bounds, so that whoever it
// is of is counted by the settings' zone, and the doctor finds it.
const unknownZone = "?"

// otherZones are those of policies and budgets, with whether the server knows
// them. Where there are none it is not asked, which reads all of its files.
const otherZones = `
	SELECT time_zone, time_zone = ANY (ARRAY(SELECT name FROM pg_timezone_names)) AS known FROM (
		SELECT time_zone FROM tokenalert.policies WHERE time_zone IS NOT NULL UNION SELECT time_zone FROM tokenalert.budgets
	) others`

// Periods works out the bounds of four periods for each reset day, in the zone
// and in those of policies and budgets: two before the current one, the current one, and the
// next.
func (s *Store) Periods(ctx context.Context, zone string) (*Periods, error) {
	rows, err := s.pool.Query(ctx, `
		WITH others AS MATERIALIZED (
			SELECT * FROM (`+otherZones+`) others WHERE time_zone <> $1
		), zones AS (
			SELECT $1::text AS zone, 0 AS n
			UNION ALL
			SELECT time_zone, row_number() OVER (ORDER BY time_zone) FROM others WHERE known
		), current AS (
			SELECT n, zone, day, tokenalert.period_start(day, zone, tokenalert.now()) AS p0
			FROM zones, generate_series(1, 31) AS day
		), chain AS (
			SELECT n, zone, day, p0, tokenalert.period_start(day, zone, p0 - interval '1 microsecond') AS p1,
			       tokenalert.period_end(day, zone, p0) AS p2
			FROM current
		)
		SELECT zone, day, tokenalert.period_start(day, zone, p1 - interval '1 microsecond'), p1, p0, p2, tokenalert.period_end(day, zone, p2),
		       EXISTS (SELECT FROM tokenalert.budgets), EXISTS (SELECT FROM tokenalert.budgets WHERE NOT counted),
		       ARRAY(SELECT '`+unknownZone+`' || time_zone FROM others WHERE NOT known)
		FROM chain ORDER BY n, day`, zone)
	if err != nil {
		return nil, fmt.Errorf("period bounds: %w", err)
	}
	p := &Periods{}
	var name string
	var from, to time.Time
	var day int32
	var at [boundsPerDay]time.Time
	var unknown []string
	_, err = pgx.ForEachRow(rows, []any{&name, &day, &at[0], &at[1], &at[2], &at[3], &at[4], &p.budgets, &p.begins, &unknown}, func() error {
		if day == 1 {
			p.zones = append(p.zones, name)
		}
		p.bounds = append(p.bounds, at[:]...)
		if at[0].After(from) {
			from = at[0]
		}
		if to.IsZero() || at[4].Before(to) {
			to = at[4]
		}
		if p.validUntil.IsZero() || at[3].Before(p.validUntil) {
			p.validUntil = at[3]
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("period bounds: %w", err)
	}
	p.zones = append(p.zones, unknown...)
	p.sent = []any{instantsOf(edgesBetween(from, to, p.bounds)), instantsOf(p.bounds), p.zones}
	return p, nil
}

// trackedSince is the earliest instant from which anybody's totals are complete.
func (p *Periods) trackedSince() time.Time {
	earliest := p.bounds[1]
	for i := 1; i < len(p.bounds); i += boundsPerDay {
		if p.bounds[i].Before(earliest) {
			earliest = p.bounds[i]
		}
	}
	return earliest
}

// edgesBetween returns from, to, and every bound in between, ascending and
// without repetition.
func edgesBetween(from, to time.Time, bounds []time.Time) []time.Time {
	edges := []time.Time{from, to}
	for _, t := range bounds {
		if t.After(from) && t.Before(to) {
			edges = append(edges, t)
		}
	}
	slices.SortFunc(edges, time.Time.Compare)
	return slices.CompactFunc(edges, time.Time.Equal)
}
