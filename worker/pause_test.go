package worker

import (
	"cmp"
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
	l := behind(t)
	now := time.Now()
	for _, tt := range []struct{ waited, want time.Duration }{
		{-time.Hour, 800 * time.Millisecond}, // created_at is the host's
		{3 * time.Second, 800 * time.Millisecond},
		{8 * time.Second, 2 * time.Second},
		{31 * 24 * time.Hour, 4 * time.Second},
		{0, 800 * time.Millisecond},
	} {
		l.adapt(store.TickResult{Kind: store.Window, Bounded: true, Now: now, Oldest: new(now.Add(-tt.waited))}, time.Second, time.Second)
		assert.Equal(t, tt.want, l.target(), "the oldest has waited for %s", tt.waited)
	}
	l.behind = now.Add(-10 * time.Second)
	assert.InDelta(t, 2.5, l.target().Seconds(), 0.2, "who is counted as fast as they come is caught up with")

	l.waited = time.Hour
	l.adapt(store.TickResult{Kind: store.Window, Now: now}, time.Second, time.Second)
	assert.Equal(t, 800*time.Millisecond, l.target(), "all is counted")
	assert.Zero(t, l.waited)
}

func TestSlicesFollowHowLongTicksTakeToCount(t *testing.T) {
	t.Parallel()
	const slice = 100_000
	for name, tt := range map[string]struct {
		result       store.TickResult
		took, target time.Duration
		want         int64
	}{
		"as long as it should":     {store.TickResult{Bounded: true}, 800 * time.Millisecond, 800 * time.Millisecond, slice},
		"shorter":                  {store.TickResult{Bounded: true}, 2 * time.Second, 3 * time.Second, slice * 3 / 2},
		"much shorter":             {store.TickResult{Bounded: true}, time.Millisecond, 800 * time.Millisecond, slice * 2},
		"longer":                   {store.TickResult{Bounded: true}, 4 * time.Second, 3 * time.Second, slice * 3 / 4},
		"much longer":              {store.TickResult{Bounded: true}, time.Minute, 3 * time.Second, slice / 2},
		"short, as all is counted": {store.TickResult{}, time.Millisecond, 800 * time.Millisecond, slice},
		"long, and all is counted": {store.TickResult{}, time.Second, 800 * time.Millisecond, slice * 8 / 10},
		"as long as others before": {store.TickResult{}, 2 * time.Second, 3 * time.Second, slice},
		"long, as it told many":    {store.TickResult{Telling: 2 * time.Second, Correcting: time.Second}, 3500 * time.Millisecond, 800 * time.Millisecond, slice},
		"a full count":             {store.TickResult{Kind: store.Full}, time.Minute, 800 * time.Millisecond, slice},
	} {
		l := behind(t)
		l.slice = slice
		tt.result.Kind = cmp.Or(tt.result.Kind, store.Window)
		l.adapt(tt.result, tt.took, tt.target)
		assert.EqualValues(t, tt.want, l.slice, name)
	}
}

// behind is the loop of a worker that has just begun to catch up.
func behind(t *testing.T) *loop {
	t.Helper()
	w := &Worker{config: Config{TickTarget: 800 * time.Millisecond}, metrics: NewMetrics("", "")}
	l := w.newLoop(nil)
	l.behind = time.Now()
	return l
}
