package worker_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAJumpTellsTheHighestAndRecordsAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	user := w.user(1000)
	w.start()
	w.use(user, 700)
	w.settle()
	assert.Empty(t, w.alerts(user))
	w.use(user, 350)
	w.settle()

	alerts := w.alerts(user)
	assert.Len(t, alerts, 3)
	assert.Equal(t, []int{100}, w.told(user))
	for i, want := range []alert{
		{Threshold: 80, Reason: "superseded"}, {Threshold: 90, Reason: "superseded"}, {Threshold: 100, Sent: true},
	} {
		want.TokensUsed, want.TokenLimit, want.Percent, want.PeriodStart = 1050, 1000, 105, alerts[i].PeriodStart
		assert.Equal(t, want, alerts[i])
	}
	assert.Len(t, w.notifications(user), 1)
	w.assertTotals()
}
