package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"
)

// outbox is a table that a trigger fills; a worker polls it and counts what it
// takes set by set.
type outbox struct{}

func (outbox) install(ctx context.Context, db *database) error {
	return db.tellable(ctx, "totals", "outbox")
}

func (outbox) worker(db *database) *exec.Cmd { return ourWorker("outbox", db.hostURL()) }
func (outbox) ready() string                 { return weWork }

func (outbox) drained(ctx context.Context, db *database) (bool, error) {
	var empty bool
	err := db.control.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM usage_outbox)").Scan(&empty)
	return empty, err
}

const (
	outboxBatch = 1_000_000             // rows that a statement takes at the most
	outboxPoll  = 10 * time.Millisecond // pause after finding nothing
)

// takeBatch counts what it deletes, in one transaction, and leaves what another
// worker has taken. Rows are found again by their ctid, which is looked up and not
// joined with the whole outbox.
const takeBatch = `
	WITH taken AS (
		DELETE FROM usage_outbox WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM usage_outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
		RETURNING user_id, tokens, created_at
	), ` + addUp + tellCrossings + `
	SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM told)`

// addUp goes on from taken (user_id, tokens, created_at) to the totals that
// tellCrossings wants.
const addUp = `
	sums AS (
		SELECT user_id, date_trunc('month', created_at, 'UTC') AS period_start, sum(tokens) AS tokens
		FROM taken GROUP BY 1, 2
	), totals AS (
		INSERT INTO usage_totals AS t (user_id, period_start, tokens_used)
		SELECT user_id, period_start, tokens FROM sums
		ON CONFLICT (user_id, period_start) DO UPDATE SET tokens_used = t.tokens_used + excluded.tokens_used
		RETURNING user_id, period_start, tokens_used
	), `

func runOutbox(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	fmt.Println(weWork)
	for {
		var rows, told int64
		if err := conn.QueryRow(ctx, takeBatch, outboxBatch).Scan(&rows, &told); err != nil {
			return err
		}
		if rows > 0 {
			continue
		}
		if err := sleep(ctx, outboxPoll); err != nil {
			return err
		}
	}
}
