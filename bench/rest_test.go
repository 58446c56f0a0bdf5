package main

import (
	"io"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStatementsAreCounted(t *testing.T) {
	t.Parallel()
	var l serverLog
	_, err := io.WriteString(&l, `rest_1|tokenalert|LOG:  execute stmtcache_1: SELECT 'rest_1|tokenalert|'
	FROM pg_class
rest_1|tokenalert|DETAIL:  parameters: $1 = '1'
rest_1|tokenalert_second|LOG:  statement: begin
rest_1|tokenalert|ERROR:  canceling statement due to user request
rest_12|tokenalert|LOG:  statement: commit
rest_1|tokenalert|LOG:  statement: commit
`)
	require.NoError(t, err)
	assert.Equal(t, 2, l.statements("rest_1", "tokenalert"))
	assert.Equal(t, 1, l.statements("rest_1", "tokenalert_second"))
	assert.Equal(t, 3, l.statements("rest_1", ""))
	l.reset()
	assert.Zero(t, l.statements("rest_1", ""))
}

func TestGoalsAreSaid(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "24 (≤ 30)", within(24, 30, thousands))
	assert.Equal(t, "**31** (goal: ≤ 30)", within(31, 30, thousands))
	assert.Equal(t, "6,000", within(6000, math.Inf(1), thousands))
	assert.Equal(t, "–", within(math.NaN(), 30, thousands))
}
