package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Settings are those that views and other replicas need to know. Whoever leads
// writes its own.
type Settings struct {
	TimeZone   string
	Thresholds []int32 // percent, ascending
	BellForced bool
	Worker     string
}

// Settings returns the settings in force, nil where no worker has ever led.
func (s *Store) Settings(ctx context.Context) (*Settings, error) { return settingsInForce(ctx, s.pool) }

func settingsInForce(ctx context.Context, db querier) (*Settings, error) {
	var f Settings
	err := db.QueryRow(ctx, `SELECT time_zone, thresholds, bell_forced, worker FROM tokenalert.settings`).
		Scan(&f.TimeZone, &f.Thresholds, &f.BellForced, &f.Worker)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read settings in force: %w", err)
	}
	return &f, nil
}

func (f *Settings) queue(batch *pgx.Batch) {
	batch.Queue(`
		INSERT INTO tokenalert.settings (time_zone, thresholds, bell_forced, worker, changed_at)
		VALUES ($1, $2, $3, $4, tokenalert.now())
		ON CONFLICT (singleton) DO UPDATE SET time_zone = EXCLUDED.time_zone, thresholds = EXCLUDED.thresholds,
			bell_forced = EXCLUDED.bell_forced, worker = EXCLUDED.worker, changed_at = EXCLUDED.changed_at`,
		f.TimeZone, f.Thresholds, f.BellForced, f.Worker)
}
