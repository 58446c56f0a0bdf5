package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHurriesDurationsAndNothingElse(t *testing.T) {
	t.Parallel()
	const rules = `
      - alert: A
        expr: |
          sum by (namespace) (increase(a_total{mode=~"[a-z]+5m"}[10m])) > 3600 and b offset 1h < 30 * 86400
            or max_over_time(c[1h30m:30s]) > 60
        for: 5m
        keep_firing_for: 90s
        annotations: {summary: "for 5m"}
`
	const want = `
      - alert: A
        expr: |
          sum by (namespace) (increase(a_total{mode=~"[a-z]+5m"}[20000ms])) > 3600 and b offset 120000ms < 30 * 86400
            or max_over_time(c[180000ms:1000ms]) > 60
        for: 10000ms
        keep_firing_for: 3000ms
        annotations: {summary: "for 5m"}
`
	assert.Equal(t, want, hurried(rules, 30))
}
