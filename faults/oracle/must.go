package oracle

import "slices"

// limits are those that the user had while the period changed.
func (p *period) limits() []int64 {
	var list []int64
	for _, s := range p.states {
		if !slices.Contains(list, s.limit) {
			list = append(list, s.limit)
		}
	}
	return list
}

// judge says whether an alert of this threshold and limit must exist, and
// whether it may. changed is whether the limit has changed, which is not asked of
// periods that have ended.
func (p *period) judge(w *World, changed bool, threshold int, limit int64) (must, may bool) {
	if !p.start.Before(w.Ended) {
		return false, false // it has not begun
	}
	may = slices.ContainsFunc(p.states, func(s state) bool { return s.limit == limit && s.reached(threshold) })
	closed := !p.end.After(w.Ended)
	if p.unsure || closed && (w.FullCounts || changed) {
		return false, may
	}
	return may && p.unavoidable(threshold, limit), may
}

// unavoidable reports whether the alert follows whichever of the states a tick
// saw, the last one among them. It follows the threshold's mark (set by a state
// that has reached it, cleared by one that has left it) through every choice in
// which the alert has not been written yet; where none is left, it was.
func (p *period) unavoidable(threshold int, limit int64) bool {
	unmarked, marked := true, false // whether the mark can be so
	for i, s := range p.states {
		last := i == len(p.states)-1
		seenUnmarked, seenMarked := unmarked, marked
		switch {
		case s.reached(threshold):
			seenUnmarked = false
			seenMarked = marked || unmarked && s.limit != limit
		case s.left(threshold):
			seenUnmarked, seenMarked = unmarked || marked, false
		}
		if last {
			unmarked, marked = seenUnmarked, seenMarked
		} else {
			unmarked, marked = unmarked || seenUnmarked, marked || seenMarked
		}
	}
	return !unmarked && !marked
}
