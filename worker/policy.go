package worker

import (
	"time"

	"github.com/google/uuid"

	"tokenalert/store"
)

// Foretell says what the next tick would decide of candidates under a policy
// that is about to change, by the settings in force.
func Foretell(c store.ChangedPolicy) []store.Decision {
	r := rules{words: BuiltInWords(Spanish), zone: time.UTC, zones: &zones{}}
	if c.Settings == nil {
		return nil // the first count decides
	}
	r.thresholds = c.Settings.Thresholds
	decisions := r.decideAll(store.Window, c.Now, c.Candidates)
	for _, d := range decisions {
		for i := range d.Alerts {
			if a := &d.Alerts[i]; d.UserID == uuid.Nil && a.Reason == "" && c.Admins == 0 {
				a.Reason = string(ReasonNoAdmin)
			}
		}
	}
	return decisions
}
