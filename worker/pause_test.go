package worker

import (
	"cmp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"tokenalert/store"
)

func TestThePauseGrowsWithWhatATickFinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rows int64
		want time.Duration
	}{
		{0, 6 * time.Millisecond},
		{1, 6 * time.Millisecond},
		{79, 6 * time.Millisecond},
		{80, 8 * time.Millisecond},
		{399, 38 * time.Millisecond},
		{400, 40 * time.Millisecond},
		{1_000_000, 40 * time.Millisecond},
	} {
		assert.Equal(t, tt.want, pauseAfter(2*time.Millisecond, time.Millisecond, tt.rows, 0), "%d rows", tt.rows)
	}
}

func TestThePauseIsShortAfterATickThatTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		counting   time.Duration
		rows, told int64
		want       time.Duration
	}{
		{2 * time.Millisecond, 1, 1, 3 * time.Millisecond},
		{90 * time.Millisecond, 1000, 1000, 3 * time.Millisecond},
		{90 * time.Millisecond, 1000, 900, 9 * 5 * time.Millisecond},
		{90 * time.Millisecond, 1000, 1, 89_910 * time.Microsecond * 20},
	} {
		assert.Equal(t, tt.want, pauseAfter(tt.counting, time.Millisecond, tt.rows, tt.told), "%+v", tt)
	}
}

func TestRowsThatToldAreCountedOnce(t *testing.T) {
	t.Parallel()
	newest := time.Now()
	told := store.Outcome{Inserted: true, Alert: store.Alert{Newest: &newest}}
	superseded, before, corrected := told, told, told
	superseded.Reason = string(ReasonSuperseded)
	before.Inserted = false
	corrected.Newest = nil
	assert.EqualValues(t, 1, rowsThatTold([]store.Outcome{superseded, superseded, told, before, corrected}))
}

func TestTicksGrowLongerTheLongerRowsHaveWaited(t *testing.T) {
	t.Parallel()
	now := time.Now()
	left := func(l *loop, waited time.Duration) {
		l.adapt(store.TickResult{Kind: store.Window, Bounded: true, Now: now, Oldest: new(now.Add(-waited))}, time.Second, time.Second, 1000)
	}
	for _, tt := range []struct{ ordinary, waited, want time.Duration }{
		{800 * time.Millisecond, -time.Hour, 800 * time.Millisecond}, // created_at is the host's
		{800 * time.Millisecond, 3 * time.Second, 800 * time.Millisecond},
		{800 * time.Millisecond, 8 * time.Second, 2 * time.Second},
		{800 * time.Millisecond, 31 * 24 * time.Hour, 4 * time.Second},
		{4 * time.Second, time.Hour, 10 * time.Second},
	} {
		l := newLoop(tt.ordinary)
		assert.Equal(t, tt.ordinary, l.target(), "nothing is left")
		left(l, tt.waited)
		assert.Equal(t, tt.want, l.target(), "the oldest has waited for %s", tt.waited)
		l.adapt(store.TickResult{Kind: store.Window, Bounded: true, Now: now}, time.Second, time.Second, 1000)
		assert.Equal(t, tt.ordinary, l.target(), "it is not known how long the oldest has waited")
		left(l, time.Hour)
		l.adapt(store.TickResult{Kind: store.Window, Now: now}, time.Second, time.Second, 1000)
		assert.Equal(t, tt.ordinary, l.target(), "all is counted")
		assert.Zero(t, l.waited)
	}

	l := newLoop(800 * time.Millisecond)
	left(l, 0)
	l.behind = l.behind.Add(-10 * time.Second)
	left(l, 0)
	assert.InDelta(t, 2.5, l.target().Seconds(), 0.2, "what comes as fast as it is counted is caught up with")
}

func TestSlicesFollowHowLongTicksTakeToCount(t *testing.T) {
	t.Parallel()
	const slice = 100_000
	for name, tt := range map[string]struct {
		result       store.TickResult
		took, target time.Duration
		want         int64
	}{
		"as long as it should":      {store.TickResult{Bounded: true}, 800 * time.Millisecond, 800 * time.Millisecond, slice},
		"shorter":                   {store.TickResult{Bounded: true}, 2 * time.Second, 3 * time.Second, slice * 3 / 2},
		"much shorter":              {store.TickResult{Bounded: true}, time.Millisecond, 800 * time.Millisecond, slice * 2},
		"longer":                    {store.TickResult{Bounded: true}, 4 * time.Second, 3 * time.Second, slice * 3 / 4},
		"much longer":               {store.TickResult{Bounded: true}, time.Minute, 3 * time.Second, slice / 2},
		"short, and all is counted": {store.TickResult{}, 2 * time.Second, 3 * time.Second, slice},
		"long, and all is counted":  {store.TickResult{}, time.Second, 800 * time.Millisecond, slice * 8 / 10},
		"long, as it told many":     {store.TickResult{Telling: 2 * time.Second, Correcting: time.Second}, 3500 * time.Millisecond, 800 * time.Millisecond, slice},
		"a full count":              {store.TickResult{Kind: store.Full}, time.Minute, 800 * time.Millisecond, slice},
	} {
		l := newLoop(800 * time.Millisecond)
		l.slice = slice
		tt.result.Kind = cmp.Or(tt.result.Kind, store.Window)
		l.adapt(tt.result, tt.took, tt.target, l.rows(tt.target))
		assert.Equal(t, tt.want, l.slice, name)
	}
}

// A target that is longer at once asks for no more than the tick before bears out.
func TestATickAsksForAFewTimesTheRowsOfTheOneBefore(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		took time.Duration
		want int64
	}{
		{40 * time.Millisecond, 400_000}, // of few users, perhaps
		{2 * time.Second, 200_000},
		{15 * time.Second, 50_000},
	} {
		l := newLoop(800 * time.Millisecond)
		l.slice = 100_000
		target := l.target()
		rows := l.rows(target)
		assert.EqualValues(t, 100_000, rows)
		l.adapt(store.TickResult{Kind: store.Window, Bounded: true, Now: now, Oldest: new(now.Add(-time.Hour))}, tt.took, target, rows)
		assert.Equal(t, tt.want, l.rows(l.target()), "after one of %s", tt.took)

		l.adapt(store.TickResult{Kind: store.Window, Now: now}, time.Second, 4*time.Second, rows)
		assert.Equal(t, 5*l.slice, l.rows(4*time.Second), "all is counted: as the slice has it")
	}

	l := newLoop(800 * time.Millisecond)
	l.slice = 100_000
	l.adapt(store.TickResult{Kind: store.Window, Bounded: true, Now: now}, 2*time.Second, 4*time.Second, 200_000)
	assert.EqualValues(t, 80_000, l.slice, "what was asked for was less than the slice has it for so long")
}

// Its minute has made the target of the next one longer.
func TestATickThatTookTooLongIsTriedWithHalfTheRows(t *testing.T) {
	t.Parallel()
	l := newLoop(800 * time.Millisecond)
	l.log, l.health = zap.NewNop(), NewHealth(time.Now, HealthBounds{})
	l.slice, l.most = 100_000, 400_000
	l.behind = time.Now().Add(-time.Second)
	rows := l.rows(l.target())
	assert.EqualValues(t, 100_000, rows)
	l.behind = l.behind.Add(-time.Minute)
	again, _, err := l.recover(t.Context(), store.Window, rows, &pgconn.PgError{Code: "57014"})
	require.NoError(t, err)
	assert.True(t, again)
	assert.EqualValues(t, 50_000, l.rows(l.target()))
}

func newLoop(target time.Duration) *loop {
	w := &Worker{config: Config{TickTarget: target}, metrics: NewMetrics("", "")}
	return w.newLoop(nil)
}
