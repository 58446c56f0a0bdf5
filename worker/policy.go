package worker

import (
	"time"

	"tokenalert/store"
)

// Foretell says what the next tick would decide of candidates under a policy
// that is about to change, by the settings in force.
func Foretell(c store.ChangedPolicy) []store.Decision {
	r := rules{words: BuiltInWords(Spanish), zone: time.UTC}
	if c.Settings == nil {
		return nil // the first count decides
	}
	r.thresholds = c.Settings.Thresholds
	return r.decideAll(store.Window, c.Now, c.Candidates)
}
