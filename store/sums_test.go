package store

import (
	"maps"
	"math"
	"math/big"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// The same sums as with big numbers throughout, whatever comes in which order.
func TestSums(t *testing.T) {
	t.Parallel()
	users := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	tokens := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 1, -1, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1}))
	rapid.Check(t, func(t *rapid.T) {
		s, want := newSums[uuid.UUID](), map[uuid.UUID]*big.Int{}
		for range rapid.IntRange(0, 30).Draw(t, "rows") {
			user, n := rapid.SampledFrom(users).Draw(t, "user"), tokens.Draw(t, "tokens")
			if want[user] == nil {
				want[user] = new(big.Int)
			}
			want[user].Add(want[user], big.NewInt(n))
			s.add(user, n)
		}
		got := maps.Collect(s.all())
		if len(got) != len(want) {
			t.Fatalf("sums of %d users, not %d", len(got), len(want))
		}
		for _, user := range users {
			expected := want[user]
			if expected == nil {
				expected = new(big.Int)
			} else if got[user].Cmp(expected) != 0 {
				t.Fatalf("all has %s, not %s", got[user], expected)
			}
			if sum := s.take(user); sum.Cmp(expected) != 0 {
				t.Fatalf("%s, not %s", sum, expected)
			}
			if s.take(user).Sign() != 0 {
				t.Fatal("taken and still there")
			}
		}
	})
}

func TestClamped(t *testing.T) {
	t.Parallel()
	most := big.NewInt(math.MaxInt64)
	assert.EqualValues(t, math.MaxInt64, clamped(most))
	assert.EqualValues(t, math.MaxInt64, clamped(new(big.Int).Mul(most, most)))
	assert.EqualValues(t, math.MinInt64, clamped(new(big.Int).Mul(most, big.NewInt(-2))))
	assert.EqualValues(t, -7, clamped(big.NewInt(-7)))
	d := Difference{Counted: math.MinInt64, Actual: math.MaxInt64}
	assert.EqualValues(t, math.MaxInt64, d.Missing())
}
