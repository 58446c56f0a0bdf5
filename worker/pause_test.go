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

func TestTicksGrowLongerTheLongerRowsHaveWaited(t *testing.T) {
	t.Parallel()
	w := &Worker{config: Config{TickTarget: 800 * time.Millisecond}, metrics: NewMetrics("", "")}
	l := w.newLoop(nil)
	now := time.Now()
	left := func(waited, took time.Duration) {
		l.adapt(store.TickResult{Kind: store.Window, Bounded: true, Now: now, Oldest: new(now.Add(-waited))}, took)
	}
	l.slice = 100_000
	for _, tt := range []struct{ waited, want time.Duration }{
		{-time.Hour, 800 * time.Millisecond}, // created_at is the host's
		{3 * time.Second, 800 * time.Millisecond},
		{8 * time.Second, 2 * time.Second},
		{31 * 24 * time.Hour, 4 * time.Second},
		{0, 800 * time.Millisecond},
	} {
		left(tt.waited, tt.want)
		assert.EqualValues(t, 100_000, l.slice)
		assert.Equal(t, tt.want, l.target(), "the oldest has waited for %s", tt.waited)
	}

	left(time.Minute, 800*time.Millisecond)
	assert.EqualValues(t, 400_000, l.slice, "at most four times as large as the one before")
	left(time.Minute, 12*time.Second)
	assert.EqualValues(t, 200_000, l.slice, "at least half as large")
	l.adapt(store.TickResult{Kind: store.Window, Now: now}, 3*time.Second)
	assert.EqualValues(t, 200_000, l.slice, "the last may take as long as the others")
	left(0, 4*time.Second)
	assert.EqualValues(t, 100_000, l.slice)

	l.slice = 200_000
	l.caughtUp()
	assert.EqualValues(t, 100_000, l.slice, "as before")
	assert.Equal(t, 800*time.Millisecond, l.target())
}
