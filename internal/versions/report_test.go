package main

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestReport(t *testing.T) {
	t.Parallel()
	old := outcome{version: "14.23.0-beta.17", step: "go test ./...", took: 61400 * time.Millisecond, result: result{
		passed: 7, skipped: []test{{"m.TestA", "it takes pg_dump"}, {"m.TestB", "below 15"}},
	}}
	current := outcome{version: "18.4.0-beta.17", step: "go test ./...", took: time.Second, result: result{
		passed: 8, failed: []test{{"m.TestC", "no\n"}}, unsteady: []test{{"m.TestD", "late\n"}}, skipped: []test{{"m.TestA", "it takes pg_dump"}},
	}}
	broken := outcome{version: "18.4.0-beta.17", step: "another", err: errors.New("killed")}
	assert.Equal(t, `
PostgreSQL  ran             passed       failed  skipped  took
14.23.0     go test ./...        7            0        2  1m1s
18.4.0      go test ./...        8            1        1  1s
18.4.0      another              0  did not end        0  0s

failed:
  m.TestC on 18

failed, and passed alone:
  m.TestD on 18

skipped:
  m.TestA on 14, 18: it takes pg_dump
  m.TestB on 14: below 15
`, report([]outcome{old, current, broken}))
	assert.Empty(t, failures(old))
	assert.Equal(t, "FAILED m.TestC\nno\nFAILED, and passed alone: m.TestD\nlate\n", failures(current))
	assert.Equal(t, "killed\n", failures(broken))
	assert.False(t, old.failed())
	assert.True(t, current.failed())
	assert.True(t, broken.failed())
}
