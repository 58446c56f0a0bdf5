package plan

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEverySortOfDeliveryFails(t *testing.T) {
	delivering, partly := 0, 0
	channels, kinds, queueing := map[string]int{}, map[FaultKind]int{}, 0
	for seed := range uint64(200) {
		p := New(seed, FaultKinds)
		if !p.Delivers() {
			assert.Empty(t, p.Receivers)
			continue
		}
		delivering++
		assert.Len(t, p.Channels, p.Workers)
		var all []string
		for _, c := range p.Channels {
			all = append(all, c...)
		}
		for _, c := range Channels {
			if slices.Contains(all, c) {
				channels[c]++
			}
		}
		if slices.ContainsFunc(p.Channels, func(c []string) bool { return len(c) != len(p.Channels[0]) }) {
			partly++
		}
		for _, f := range p.Receivers {
			kinds[f.Kind]++
			assert.Contains(t, all, f.Channel)
			ofInbox := f.Kind == CloseInbox || f.Kind == LockInbox
			assert.Equal(t, f.Channel == Notification, ofInbox, "%s by %s", f.Kind, f.Channel)
		}
		for _, f := range p.Faults {
			if f.Stage == Queueing {
				queueing++
			}
		}
	}
	assert.InDelta(t, 120, delivering, 25)
	assert.GreaterOrEqual(t, partly, 10)
	assert.GreaterOrEqual(t, queueing, 30)
	for _, c := range Channels {
		assert.GreaterOrEqual(t, channels[c], 40, c)
	}
	for _, kind := range ReceiverFaults {
		assert.GreaterOrEqual(t, kinds[kind], 10, kind)
	}
}
