package worker

import (
	"time"

	"tokenalert/store"
)

// Foretell says what the next tick would decide of candidates under a policy
// that is about to change, by the settings in force. It does not know whether the
// worker has a webhook: an alert of a budget that has no admin to tell has the
// reason no_admin, and the webhook among its Channels, which is told where it is
// set up, unless the policy leaves it out.
func Foretell(c store.ChangedPolicy) []store.Decision {
	r := rules{words: BuiltInWords(Spanish), zone: time.UTC, zones: &zones{}, channels: []string{store.ChannelWebhook}}
	if c.Settings == nil {
		return nil // the first count decides
	}
	r.thresholds = c.Settings.Thresholds
	var decisions []store.Decision
	for i := range c.Candidates {
		one := &c.Candidates[i]
		d, changed := r.decide(store.Window, c.Now, one)
		if !changed {
			continue
		}
		for j := range d.Alerts {
			switch a := &d.Alerts[j]; {
			case c.Recorded[one.Key(a.Threshold)]:
				a.Reason = string(ReasonAlreadyTold)
			case one.OfBudget() && a.Reason == "" && c.Admins == 0:
				a.Reason = string(ReasonNoAdmin)
			}
		}
		decisions = append(decisions, d)
	}
	return decisions
}
