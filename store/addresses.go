package store

import (
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// addresses say where to connect to, and how: through the pool, and directly.
// Where the strings come from may change while the process runs, when a password
// is rotated, and so may the files that they name, of certificates for one; so
// all are read again before each new connection.
type addresses struct {
	name   string // of the pool's sessions
	pooled bool   // a pooler may stand before the pool's address

	mu             sync.Mutex
	reread         func() (url, directURL string, err error) // nil: they stay
	url, directURL string
	pool, direct   address
}

// address is what a connection string says.
type address struct {
	config *pgx.ConnConfig
	*route
}

// Reread has read called before each new connection, for connection strings as
// those of Open. Sessions that there are go on as they are. It is to be called
// before anything connects.
func (s *Store) Reread(read func() (url, directURL string, err error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reread = read
}

// current are the addresses as of now. A string that has changed begins with its
// first host, any other where it was.
func (a *addresses) current() (pool, direct address, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reread != nil {
		url, directURL, err := a.reread()
		if err != nil {
			return pool, direct, err
		}
		same, first, directFirst := url == a.url && directURL == a.directURL, a.pool.first, a.direct.first
		if _, err := a.set(url, directURL); err != nil {
			return pool, direct, err
		}
		if same {
			a.pool.first, a.direct.first = first, directFirst
		}
	}
	return a.pool, a.direct, nil
}

// set parses both strings, keeps what they say, and returns what that of the
// pool says of pools.
func (a *addresses) set(url, directURL string) (*pgxpool.Config, error) {
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	direct := pool
	if directURL != "" {
		// pgxpool knows pool_… parameters, where pgx would send them to the server.
		if direct, err = pgxpool.ParseConfig(directURL); err != nil {
			return nil, fmt.Errorf("direct database URL: %w", err)
		}
	}
	toPool, toDirect := pool.ConnConfig, direct.ConnConfig.Copy()
	if a.pooled && !strings.Contains(url, "default_query_exec_mode") {
		toPool.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	toPool.RuntimeParams["application_name"] = a.name
	for _, c := range []*pgx.ConnConfig{toPool, toDirect} {
		if c.ConnectTimeout == 0 {
			c.ConnectTimeout = connectTimeout
		}
	}
	a.url, a.directURL = url, directURL
	a.pool = address{toPool, newRoute(&toPool.Config)}
	a.direct = address{toDirect, newRoute(&toDirect.Config)}
	return pool, nil
}

// follow begins with a host from here on, where it is one of theirs.
func (a *addresses) follow(to station) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pool.follow(to)
	a.direct.follow(to)
}

// leave begins with the next host from here on.
func (a *addresses) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pool.leave()
	a.direct.leave()
}
