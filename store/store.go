package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Names that PostgreSQL shows in pg_stat_activity.application_name. The session
// of whoever leads adds since when and its worker's name (see Lead).
const (
	appPrefix  = "tokenalert "
	appTick    = appPrefix + "tick"
	appLead    = appPrefix + "lead"
	appListen  = appPrefix + "listen"
	appMigrate = appPrefix + "migrate"
	appDeliver = appPrefix + "deliver"
)

// poolSize bounds the connections that may go through a pooler: one for ticks, one
// for a comparison and one for what was used of a new budget, either of which may
// take half an hour. The lead and the listener have one each of their own.
const poolSize = 3

// connectTimeout bounds each attempt to connect where the URL sets no
// connect_timeout of its own.
const connectTimeout = 5 * time.Second

// Store runs the product's statements. It is safe for concurrent use.
type Store struct {
	*addresses
	pool *pgxpool.Pool
}

// Open prepares connections to url (ticks and reports) and directURL (the lead
// and the listener, which need a session of their own; empty: the same as url).
// Where they differ, a pooler is taken to stand before url, which may hand a
// session to others between two transactions: statements are then not prepared
// on the server, unless the URL says so with default_query_exec_mode. An empty
// url means the PG* variables. Open does not connect. Errors never contain the
// password.
func Open(url, directURL string) (*Store, error) {
	return open(appTick, url, directURL, directURL != "" && directURL != url, poolSize)
}

// OpenFor is Open for a command that runs once: its sessions carry the
// command's name in place of the tick's, and never prepare statements, so that
// it works through any pooler.
func OpenFor(command, url, directURL string) (*Store, error) {
	return open(appPrefix+command, url, directURL, true, poolSize)
}

func open(name, url, directURL string, pooled bool, size int32) (*Store, error) {
	s := &Store{addresses: &addresses{name: name, pooled: pooled}}
	pool, err := s.set(url, directURL)
	if err != nil {
		return nil, err
	}
	pool.MaxConns = size
	pool.MinConns, pool.MinIdleConns = 0, 0
	pool.MaxConnIdleTime = time.Minute
	// By default a session that was idle for a second is pinged first, which
	// would double the leader's statements at rest and delay the first tick
	// after a ring. A session found broken costs one attempt more.
	pool.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		inUTC(conn.TypeMap())
		return nil
	}
	pool.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		to, _, err := s.current()
		if err != nil {
			return err
		}
		mode := c.DefaultQueryExecMode // a pool made after this one may have another
		*c = *to.config.Copy()
		c.DefaultQueryExecMode = mode
		directTo(&c.Config, to.order()...)
		return nil
	}
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), pool); err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	return s, nil
}

// inUTC has instants read in UTC, whatever the zone of this machine.
func inUTC(types *pgtype.Map) {
	codec := &pgtype.TimestamptzCodec{ScanLocation: time.UTC}
	types.RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: codec})
	types.RegisterType(&pgtype.Type{Name: "_timestamptz", OID: pgtype.TimestamptzArrayOID, Codec: &pgtype.ArrayCodec{
		ElementType: &pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: codec},
	}})
}

// closeWithin bounds how long Close waits.
const closeWithin = time.Second

// Close closes the pool, waiting for connections in use, and not for a server
// that does not answer: pgx goes on asking one for 15 s to cancel what it left
// unanswered, which is longer than a stop may take.
func (s *Store) Close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.pool.Close()
	}()
	patience := time.NewTimer(closeWithin)
	defer patience.Stop()
	select {
	case <-closed:
	case <-patience.C:
	}
}

// Reset closes the pool's connections, so that the next statement connects
// anew: after a failover the old ones lead to a server that only reads. Where
// the URL has several hosts, the next attempt begins with another.
func (s *Store) Reset() {
	s.leave()
	s.pool.Reset()
}

// connect opens a session of its own, outside the pool.
func (s *Store) connect(ctx context.Context, name string) (*pgx.Conn, error) {
	conn, _, err := s.connectTo(ctx, name)
	return conn, err
}

// connectTo is connect, and says where to.
func (s *Store) connectTo(ctx context.Context, name string) (*pgx.Conn, station, error) {
	_, to, err := s.current()
	if err != nil {
		return nil, nil, fmt.Errorf("connect (%s): %w", name, err)
	}
	var failed []error
	for _, station := range to.order() {
		config := to.config.Copy()
		directTo(&config.Config, station)
		config.RuntimeParams["application_name"] = name
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			return conn, station, nil
		}
		failed = append(failed, err)
	}
	return nil, nil, fmt.Errorf("connect (%s): %w", name, advised("the database URL", errors.Join(failed...)))
}
