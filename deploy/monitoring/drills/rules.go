package main

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// defaultHurry is how much faster time passes in the rules: each duration in them
// is divided by it, and so is the interval of the scrapes. Numbers that a metric is
// compared with stay as they are.
const defaultHurry = 30

var (
	// What has durations: these fields of a rule, ranges as [5m] and [1h:30s], and offsets.
	timed    = regexp.MustCompile(`(?m)^\s*(?:for|keep_firing_for|interval):.*$|\[[^\]\n]*\]|\boffset\s+\S+`)
	duration = regexp.MustCompile(`(?:\d+(?:ms|[smhdw]))+`)
	part     = regexp.MustCompile(`(\d+)(ms|[smhdw])`)
)

var units = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// hurried are the rules with all their durations divided.
func hurried(rules string, hurry time.Duration) string {
	return timed.ReplaceAllStringFunc(rules, func(field string) string {
		return duration.ReplaceAllStringFunc(field, func(text string) string {
			var d time.Duration
			for _, p := range part.FindAllStringSubmatch(text, -1) {
				n, _ := strconv.Atoi(p[1]) // digits
				d += time.Duration(n) * units[p[2]]
			}
			return inMilliseconds(d / hurry)
		})
	})
}

// inMilliseconds is how Prometheus takes any duration.
func inMilliseconds(d time.Duration) string { return fmt.Sprintf("%dms", d.Milliseconds()) }
