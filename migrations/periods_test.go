package migrations_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	_ "time/tzdata" // For machines without a tz database.

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// periods is a database with nothing in it but 00003_periods.sql.
var periods = pgtest.Template{Name: "periods", Build: func(ctx context.Context, url string) error {
	const name = "00003_periods.sql"
	file, err := fs.ReadFile(migrations.FS, name)
	if err != nil {
		return err
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	return errors.Join(migrate(ctx, db, fstest.MapFS{name: {Data: file}}), db.Close())
}}

// migrate goes up, down, which leaves nothing behind that the next up would
// stumble on, and up again.
func migrate(ctx context.Context, db *sql.DB, files fs.FS) error {
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA tokenalert"); err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	if _, err := provider.Down(ctx); err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// The years under test, and what is on either side of them in the calendar.
var (
	firstYear, lastYear = 2008, 2030
	calendarBegin       = time.Date(firstYear-1, time.October, 1, 0, 0, 0, 0, time.UTC)
	calendarEnd         = time.Date(lastYear+1, time.April, 1, 0, 0, 0, 0, time.UTC)
)

// TestPeriods holds period_start and period_end against a calendar that is made
// here, by walking through all minutes of all years. The zones are those of the
// issue, and others for what they do to midnight.
func TestPeriods(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, periods)
	for _, zone := range []string{
		"UTC",
		"America/Santiago", // Skips midnights, and shows 23:00 to midnight twice.
		"Asia/Kolkata",     // Half an hour.
		"Pacific/Apia",     // Had no 30 December 2011.
		"Africa/Cairo",     // Skips midnights, with years in between that do not.
		"America/Havana",   // Shows midnight to 01:00 twice, also on 1 November.
		"America/St_Johns", // Was set back from 00:01 to 23:01, also on 1 November.
		"Asia/Beirut",      // Skips midnights.
		imaginary,
	} {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			conn := db.Conn(t)
			// Nothing may depend on the session's zone: one that is nobody's.
			_, err := conn.Exec(t.Context(), "SET TimeZone = 'Australia/Lord_Howe'")
			require.NoError(t, err)
			location := load(t, zone)

			clock := watch(location)
			requireSameClock(t, conn, location, clock)
			checkPeriods(t, conn, location, periodCases(clock))
		})
	}
}

// imaginary is a rule, in the notation of POSIX that both sides understand, for
// what no real zone has done since 2000, but could: on 31 January the clock goes
// from 23:30 to 01:30, so that the gap does not begin with the midnight in it,
// and on 1 November from 00:30 to 22:30, by more than an hour.
const imaginary = "AAA3BBB1,J31/23:30,J305/0:30"

// load is time.LoadLocation, and makes a zone of the imaginary rule.
func load(t *testing.T, zone string) *time.Location {
	t.Helper()
	if zone != imaginary {
		location, err := time.LoadLocation(zone)
		require.NoError(t, err)
		return location
	}
	// RFC 9636: twice a header and a list without changes, and then the rule.
	const list = "TZif2" + "000000000000000" + // unused
		"\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + // nothing but
		"\x00\x00\x00\x01" + "\x00\x00\x00\x04" + // one type and the four bytes of its name:
		"\xff\xff\xd5\xd0" + "\x00" + "\x00" + "AAA\x00" // -10800 s, not summer
	location, err := time.LoadLocationFromTZData(zone, []byte(list+list+"\n"+imaginary+"\n"))
	require.NoError(t, err)
	return location
}

// TestPeriodsOfNoInstant is about what has no place in a calendar.
func TestPeriodsOfNoInstant(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, periods).Conn(t)
	for _, test := range []struct{ zone, at, start, end string }{
		{zone: "'UTC'", at: "NULL", start: "NULL", end: "NULL"},
		{zone: "NULL", at: "'2026-01-01Z'", start: "NULL", end: "NULL"},
		{zone: "'UTC'", at: "'infinity'", start: "'infinity'", end: "NULL"},
		{zone: "'UTC'", at: "'-infinity'", start: "'-infinity'", end: "NULL"},
	} {
		var startOK, endOK bool
		err := conn.QueryRow(t.Context(), fmt.Sprintf(`
			SELECT tokenalert.period_start(1, %[1]s, %[2]s) IS NOT DISTINCT FROM %[3]s,
			       tokenalert.period_end(1, %[1]s, %[2]s) IS NOT DISTINCT FROM %[4]s`,
			test.zone, test.at, test.start, test.end)).Scan(&startOK, &endOK)
		require.NoError(t, err, "%+v", test)
		assert.True(t, startOK, "period_start: %+v", test)
		assert.True(t, endOK, "period_end: %+v", test)
	}
}

// TestNowIsReplaceable replaces the clock, as tests of whole periods do, under a
// session that has already used the old one.
func TestNowIsReplaceable(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, periods).Conn(t)
	const query = "SELECT tokenalert.now() <> now(), tokenalert.period_start(31, 'UTC', tokenalert.now())"
	var replaced bool
	var start time.Time
	require.NoError(t, conn.QueryRow(t.Context(), query).Scan(&replaced, &start))
	assert.False(t, replaced)

	_, err := conn.Exec(t.Context(), `CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz
		LANGUAGE sql STABLE RETURN timestamptz '2024-03-01 00:00Z' - interval '1 microsecond'`)
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(t.Context(), query).Scan(&replaced, &start))
	assert.True(t, replaced)
	assert.Equal(t, "2024-02-29T00:00:00Z", start.UTC().Format(time.RFC3339))
}

// periodCase is an instant and the period that it belongs to.
type periodCase struct {
	resetDay       *int32
	at, start, end time.Time
}

// periodCases are the instants around the beginning of each period and around
// each change of the clocks, for every reset day.
func periodCases(clock calendar) []periodCase {
	resetDays := []*int32{nil}
	for day := range int32(31) {
		resetDays = append(resetDays, new(day+1))
	}
	for _, day := range []int32{0, -1, math.MinInt32, 40, math.MaxInt32} {
		resetDays = append(resetDays, new(day))
	}

	var cases []periodCase
	for _, resetDay := range resetDays {
		var starts []time.Time
		for year := calendarBegin.Year(); year <= calendarEnd.Year(); year++ {
			for month := time.January; month <= time.December; month++ {
				if start, ok := clock.midnights[resetDate(resetDay, year, month)]; ok {
					starts = append(starts, start)
				}
			}
		}
		add := func(at time.Time) {
			next := sort.Search(len(starts), func(i int) bool { return starts[i].After(at) })
			cases = append(cases, periodCase{resetDay: resetDay, at: at, start: starts[next-1], end: starts[next]})
		}
		for i, start := range starts {
			if year := start.Year(); year < firstYear || year > lastYear {
				continue
			}
			for hours := -3; hours <= 3; hours++ {
				add(start.Add(time.Duration(hours) * time.Hour))
			}
			for _, little := range []time.Duration{time.Microsecond, time.Second} {
				add(start.Add(-little))
				add(start.Add(little))
			}
			add(start.Add(starts[i+1].Sub(start) / 2).Truncate(time.Microsecond))
		}
		for _, change := range clock.changes {
			if year := change.Year(); year < firstYear || year > lastYear {
				continue
			}
			add(change.Add(-time.Microsecond))
			add(change)
			add(change.Add(time.Microsecond))
		}
	}
	return cases
}

// date is a day of the calendar, in UTC by convention.
type date = time.Time

func resetDate(resetDay *int32, year int, month time.Month) date {
	day := 1
	if resetDay != nil && *resetDay > 1 {
		day = int(*resetDay)
	}
	if last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day(); day > last {
		day = last
	}
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// calendar is what a clock in a zone shows in the years under test.
type calendar struct {
	// midnights says for each date in which minute the clock shows it, or a
	// later one, for the first time.
	midnights map[date]time.Time
	// changes are the instants at which the zone's offset changes.
	changes []time.Time
}

// watch looks at the clock in every minute.
func watch(location *time.Location) calendar {
	const day = 24 * 60 * 60
	c := calendar{midnights: make(map[date]time.Time)}
	var shown, offset int64 // the latest day shown so far, counted from 1970; the last offset
	for at, ahead := range everyMinute(location) {
		shows := (at + ahead) / day
		if at == calendarBegin.Unix() {
			shown, offset = shows, ahead // In the middle of a day.
		}
		for ; shown < shows; shown++ {
			c.midnights[time.Unix((shown+1)*day, 0).UTC()] = time.Unix(at, 0).UTC()
		}
		if offset != ahead {
			offset = ahead
			c.changes = append(c.changes, time.Unix(at, 0).UTC())
		}
	}
	return c
}

// everyMinute yields the Unix time of each minute and the seconds by which the
// zone is then ahead of UTC. It looks them up minute by minute in the hours in
// which they change. (Not with Time.ZoneBounds: where a zone has a rule instead
// of a list, that stands still on 31 December of a leap year.)
func everyMinute(location *time.Location) iter.Seq2[int64, int64] {
	const minute, hour = 60, 60 * 60
	offset := func(at int64) int64 {
		_, seconds := time.Unix(at, 0).In(location).Zone()
		return int64(seconds)
	}
	return func(yield func(int64, int64) bool) {
		ahead := offset(calendarBegin.Unix())
		for begin := calendarBegin.Unix(); begin < calendarEnd.Unix(); begin += hour {
			changes := offset(begin+hour) != ahead
			for at := begin; at < begin+hour; at += minute {
				if changes {
					ahead = offset(at)
				}
				if !yield(at, ahead) {
					return
				}
			}
			// A change may come with the hour.
			ahead = offset(begin + hour)
		}
	}
}

// requireSameClock ends the test where PostgreSQL and Go disagree about the zone
// itself. Governments change their minds, and the two may know different
// editions of the tz database: then periods differ, and no function is wrong.
func requireSameClock(t *testing.T, conn *pgx.Conn, location *time.Location, clock calendar) {
	t.Helper()
	var instants []time.Time
	for at := calendarBegin; at.Before(calendarEnd); at = at.Add(12 * time.Hour) {
		instants = append(instants, at)
	}
	for _, change := range clock.changes {
		instants = append(instants, change.Add(-time.Second), change)
	}
	offsets := make([]int32, len(instants))
	for i, at := range instants {
		_, offset := at.In(location).Zone()
		offsets[i] = int32(offset)
	}
	rows, err := conn.Query(t.Context(), `
		SELECT at, golang, postgresql
		FROM unnest($2::timestamptz[], $3::integer[]) AS sample(at, golang),
		     LATERAL (SELECT extract(epoch FROM (at AT TIME ZONE $1) - (at AT TIME ZONE 'UTC'))::integer) AS o(postgresql)
		WHERE golang <> postgresql
		ORDER BY at`, location.String(), instants, offsets)
	require.NoError(t, err)
	different, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var at time.Time
		var golang, postgresql int32
		err := row.Scan(&at, &golang, &postgresql)
		return fmt.Sprintf("at %s Go is %+d s from UTC, PostgreSQL %+d s", at.UTC().Format(time.RFC3339), golang, postgresql), err
	})
	require.NoError(t, err)
	if len(different) > 0 {
		golang, postgresql := tzdataVersions(t, conn)
		require.FailNow(t, fmt.Sprintf("different tz data, not different periods: %s\nGo: %s\nPostgreSQL: %s\n%d of %d samples differ; the first: %s",
			location, golang, postgresql, len(different), len(instants), different[0]))
	}
}

// tzdataVersions says where Go and PostgreSQL have their zones from.
func tzdataVersions(t *testing.T, conn *pgx.Conn) (golang, postgresql string) {
	t.Helper()
	edition := func(directory string) string {
		text, err := os.ReadFile(filepath.Join(directory, "tzdata.zi"))
		if err != nil {
			return directory + " (edition unknown)"
		}
		first, _, _ := strings.Cut(string(text), "\n")
		return directory + " (" + strings.TrimPrefix(first, "# version ") + ")"
	}
	const system = "/usr/share/zoneinfo" // where package time looks first
	golang = "embedded by " + runtime.Version()
	if _, err := os.Stat(system); err == nil {
		golang = edition(system)
	}
	var version string
	var directory *string
	err := conn.QueryRow(t.Context(), `
		SELECT current_setting('server_version'),
		       (SELECT (regexp_match(setting, '--with-system-tzdata=([^ '']+)'))[1] FROM pg_config WHERE name = 'CONFIGURE')`,
	).Scan(&version, &directory)
	require.NoError(t, err)
	postgresql = "its own, of release " + version
	if directory != nil {
		postgresql = edition(*directory)
	}
	return golang, postgresql
}

// checkPeriods lets PostgreSQL work out all cases in one query, which returns
// those that it sees otherwise.
func checkPeriods(t *testing.T, conn *pgx.Conn, location *time.Location, cases []periodCase) {
	t.Helper()
	resetDays := make([]*int32, len(cases))
	ats, starts, ends := make([]time.Time, len(cases)), make([]time.Time, len(cases)), make([]time.Time, len(cases))
	for i, c := range cases {
		resetDays[i], ats[i], starts[i], ends[i] = c.resetDay, c.at, c.start, c.end
	}
	begun := time.Now()
	rows, err := conn.Query(t.Context(), `
		SELECT reset_day, at, got_start, want_start, got_end, want_end
		FROM unnest($2::integer[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
		         AS c(reset_day, at, want_start, want_end),
		     LATERAL (SELECT tokenalert.period_start(reset_day, $1, at), tokenalert.period_end(reset_day, $1, at))
		         AS got(got_start, got_end)
		WHERE got_start IS DISTINCT FROM want_start OR got_end IS DISTINCT FROM want_end`,
		location.String(), resetDays, ats, starts, ends)
	require.NoError(t, err)
	wrong, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var resetDay pgtype.Int4
		var at, wantStart, wantEnd time.Time
		var gotStart, gotEnd pgtype.Timestamptz
		if err := row.Scan(&resetDay, &at, &gotStart, &wantStart, &gotEnd, &wantEnd); err != nil {
			return "", err
		}
		day := "NULL"
		if resetDay.Valid {
			day = fmt.Sprint(resetDay.Int32)
		}
		local := func(at time.Time) string {
			return at.In(location).Format("2006-01-02T15:04:05.999999Z07:00")
		}
		got := func(at pgtype.Timestamptz) string {
			if !at.Valid {
				return "NULL"
			}
			return local(at.Time)
		}
		return fmt.Sprintf("reset day %s at %s:\n     got %s to %s,\n    want %s to %s",
			day, local(at), got(gotStart), got(gotEnd), local(wantStart), local(wantEnd)), nil
	})
	require.NoError(t, err)
	t.Logf("%d cases in %s", len(cases), time.Since(begun).Round(time.Millisecond))
	if len(wrong) > 0 {
		t.Errorf("%s: %d of %d cases are wrong; the first:\n%s",
			location, len(wrong), len(cases), strings.Join(wrong[:min(len(wrong), 5)], "\n"))
	}
}
