package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/internal/pgtest"
)

// traffic is a host that logs usage of some users, over several connections, and
// goes on through a failover as hosts do: by connecting anew.
type traffic struct {
	url    string
	org    uuid.UUID
	users  []uuid.UUID
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu           sync.Mutex
	acknowledged []uuid.UUID // rows whose commit the server has said
}

// writesAtOnce is how many connections the traffic has.
const writesAtOnce = 3

// drive starts traffic to whichever of the databases takes writes. It ends with
// stop, or with the test.
func (p *platform) drive(users []uuid.UUID, databases ...*pgtest.DB) *traffic {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &traffic{
		url: pgtest.HostsURL(p.t, pgtest.Writer, "target_session_attrs=read-write", databases...),
		org: p.org, users: users, cancel: cancel,
	}
	for range writesAtOnce {
		w.ended.Go(func() {
			for ctx.Err() == nil {
				w.write(ctx)
			}
		})
	}
	p.t.Cleanup(w.stop)
	return w
}

// write writes until the connection breaks. What broke with it may have
// committed or not: nobody was told.
func (w *traffic) write(ctx context.Context) {
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		return // no server takes writes yet
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for ctx.Err() == nil {
		id := uuid.New()
		_, err := conn.Exec(ctx, `INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens)
			VALUES ($1, $2, $3, $4, 0, 0)`, id, w.users[rand.IntN(len(w.users))], w.org, 1+rand.IntN(20))
		if err != nil {
			return
		}
		w.mu.Lock()
		w.acknowledged = append(w.acknowledged, id)
		w.mu.Unlock()
	}
}

func (w *traffic) stop() {
	w.cancel()
	w.ended.Wait()
}

// rows are the ids of the rows acknowledged so far.
func (w *traffic) rows() []uuid.UUID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clip(w.acknowledged)
}

// goOn waits until n more rows are acknowledged.
func (w *traffic) goOn(t *testing.T, n int) {
	t.Helper()
	n += len(w.rows())
	eventually(t, func() bool { return len(w.rows()) >= n }, "writers do not get on")
}
