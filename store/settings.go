package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Settings are those that views and other replicas need to know. Whoever leads
// writes its own.
type Settings struct {
	TimeZone   string    `json:"time_zone"`
	Thresholds []int32   `json:"thresholds"` // percent, ascending
	BellForced bool      `json:"bell_forced"`
	Worker     string    `json:"worker"`     // that put them in force
	ChangedAt  time.Time `json:"changed_at"` // when that was; for whoever reads
}

// Settings returns the settings in force, nil where no worker has ever led.
func (s *Store) Settings(ctx context.Context) (*Settings, error) {
	return scanSettings(s.pool.QueryRow(ctx, settingsInForce))
}

const settingsInForce = `SELECT time_zone, thresholds, bell_forced, worker, changed_at FROM tokenalert.settings`

func scanSettings(row pgx.Row) (*Settings, error) {
	var f Settings
	err := row.Scan(&f.TimeZone, &f.Thresholds, &f.BellForced, &f.Worker, &f.ChangedAt)
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
