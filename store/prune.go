package store

import (
	"context"
	"fmt"
	"time"
)

// pruneBatch bounds the rows that one statement deletes.
const pruneBatch = 5_000

// Prune deletes ticks older than keep, but never the newest, in small batches.
// It returns how many.
func (s *Store) Prune(ctx context.Context, keep time.Duration) (int64, error) {
	var total int64
	for {
		tag, err := s.pool.Exec(ctx, `
			DELETE FROM tokenalert.ticks WHERE id IN (
				SELECT id FROM tokenalert.ticks
				WHERE started_at < tokenalert.now() - $1::interval AND id < (SELECT max(id) FROM tokenalert.ticks)
				ORDER BY id LIMIT $2)`, keep, pruneBatch)
		if err != nil {
			return total, fmt.Errorf("prune ticks: %w", err)
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < pruneBatch {
			return total, nil
		}
	}
}
