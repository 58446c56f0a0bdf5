package worker

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"percent", "pace", "pace_date"}
	for given, want := range map[string]string{"percnt": "percent", "pcae": "pace", "pace_dat": "pace_date", "date": "", "": "", "x": ""} {
		assert.Equal(t, want, Nearest(given, known), "%q", given)
	}
	assert.Empty(t, Nearest("pace", nil))
}

func TestDistance(t *testing.T) {
	t.Parallel()
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"bell", "bell", 0},
		{"bell", "ball", 1},
		{"bell", "bel", 1},
		{"bell", "bells", 1},
		{"bell", "blel", 1},
		{"ca", "abc", 3}, // 2 if a swapped pair could be touched again
		{"kitten", "sitting", 3},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, distance(tt.a, tt.b), "%q %q", tt.a, tt.b)
	}
}
