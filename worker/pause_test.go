package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestThePauseGrowsWithWhatATickFinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rows int64
		want time.Duration
	}{
		{0, 6 * time.Millisecond},
		{1, 6 * time.Millisecond},
		{79, 6 * time.Millisecond},
		{80, 8 * time.Millisecond},
		{399, 38 * time.Millisecond},
		{400, 40 * time.Millisecond},
		{1_000_000, 40 * time.Millisecond},
	} {
		assert.Equal(t, tt.want, pauseAfter(2*time.Millisecond, tt.rows), "%d rows", tt.rows)
	}
}
