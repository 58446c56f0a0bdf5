package store

import (
	"iter"
	"math"
	"math/big"
)

// sums are tokens per user, or share, exact like the numeric totals. Where a user's do
// not fit into 64 bits (a host whose column is a bigint), they are kept as a
// big number.
type sums[K comparable] struct {
	small map[K]int64
	large map[K]*big.Int
}

func newSums[K comparable]() *sums[K] { return &sums[K]{map[K]int64{}, map[K]*big.Int{}} }

func (s *sums[K]) add(user K, tokens int64) {
	if sum, large := s.large[user]; large {
		sum.Add(sum, big.NewInt(tokens))
		return
	}
	sum := s.small[user]
	if tokens > 0 && sum > math.MaxInt64-tokens || tokens < 0 && sum < math.MinInt64-tokens {
		delete(s.small, user)
		s.large[user] = new(big.Int).Add(big.NewInt(sum), big.NewInt(tokens))
		return
	}
	s.small[user] = sum + tokens
}

// take returns a user's sum, 0 where there is none, and forgets it.
func (s *sums[K]) take(user K) *big.Int {
	sum, large := s.large[user]
	if !large {
		sum = big.NewInt(s.small[user])
	}
	delete(s.small, user)
	delete(s.large, user)
	return sum
}

// all are the users and their sums.
func (s *sums[K]) all() iter.Seq2[K, *big.Int] {
	return func(yield func(K, *big.Int) bool) {
		for user, sum := range s.small {
			if !yield(user, big.NewInt(sum)) {
				return
			}
		}
		for user, sum := range s.large {
			if !yield(user, sum) {
				return
			}
		}
	}
}

// clamped is n or, where it does not fit, what comes nearest.
func clamped(n *big.Int) int64 {
	switch {
	case n.IsInt64():
		return n.Int64()
	case n.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}
