package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
)

// Listen calls rung whenever the bell rings, and once after each connect,
// because a ring may have been lost. failed hears of lost connections. It
// returns when ctx ends. rung runs on the listener's connection and must not
// block.
func (s *Store) Listen(ctx context.Context, rung func(), failed func(error)) error {
	l := &pgxlisten.Listener{
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			conn, err := s.connect(ctx, appListen)
			if err != nil {
				return nil, err
			}
			// This session is silent by design.
			if _, err := conn.Exec(ctx, "SET idle_session_timeout = 0", pgx.QueryExecModeSimpleProtocol); err != nil {
				_ = conn.Close(ctx)
				return nil, err
			}
			return conn, nil
		},
		LogError: func(ctx context.Context, err error) {
			if ctx.Err() == nil {
				failed(err)
			}
		},
		ReconnectDelay: time.Second, // the library's own default is a minute
	}
	l.Handle(channelBell, bellHandler(rung))
	return l.Listen(ctx)
}

type bellHandler func()

func (h bellHandler) HandleNotification(context.Context, *pgconn.Notification, *pgx.Conn) error {
	h()
	return nil
}

// HandleBacklog is called once LISTEN is in force.
func (h bellHandler) HandleBacklog(context.Context, string, *pgx.Conn) error {
	h()
	return nil
}
