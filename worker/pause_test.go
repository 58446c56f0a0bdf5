package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

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

func TestTicksGrowLongerWhileCatchingUpLasts(t *testing.T) {
	t.Parallel()
	w := &Worker{config: Config{TickTarget: 800 * time.Millisecond}, metrics: NewMetrics("", "")}
	l := w.newLoop(nil)
	left := func(took time.Duration) { l.adapt(store.TickResult{Kind: store.Window, Bounded: true}, took) }
	l.slice = 100_000
	left(800 * time.Millisecond)
	assert.EqualValues(t, 100_000, l.slice)

	for _, tt := range []struct {
		behind time.Duration
		want   time.Duration
	}{
		{0, 800 * time.Millisecond}, {3 * time.Second, 800 * time.Millisecond}, {8 * time.Second, 2 * time.Second}, {time.Hour, 4 * time.Second},
	} {
		l.behind = time.Now().Add(-tt.behind)
		assert.InDelta(t, tt.want.Seconds(), l.target().Seconds(), 0.2, "behind for %s", tt.behind)
	}
	left(800 * time.Millisecond)
	left(800 * time.Millisecond)
	assert.EqualValues(t, 400_000, l.slice, "at most twice as large as the one before")
	left(8 * time.Second)
	assert.InDelta(t, 200_000, l.slice, 2)

	l.caughtUp()
	assert.EqualValues(t, 100_000, l.slice, "as before")
	assert.Equal(t, 800*time.Millisecond, l.target())
}
