package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"tokenalert/internal/host"
)

// The roles of the demo's database: the host's, which owns its tables and
// writes its rows, and the worker's.
const (
	HostRole   = "platform"
	WorkerRole = "tokenalert"
)

// Limit is the monthly limit of each user, in tokens.
const Limit = 100_000

// writers is how many of the host's sessions write at once.
const writers = 4

// Platform is the host: users and their usage.
type Platform struct {
	Organization uuid.UUID
	Users        []uuid.UUID
	Names        map[uuid.UUID]string

	calls atomic.Int64
}

// Calls is how many calls of Traffic have committed so far.
func (p *Platform) Calls() int64 { return p.calls.Load() }

// Database is the name of the host's database.
const Database = "platform"

// CreateDatabase makes the two roles and the host's database. url is the
// server's administrator's.
func CreateDatabase(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, statement := range []string{
		"CREATE ROLE " + HostRole + " LOGIN",
		"CREATE ROLE " + WorkerRole + " LOGIN",
		"CREATE DATABASE " + Database + " OWNER " + HostRole,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// NewPlatform makes the host's tables and users. url is the host's.
func NewPlatform(ctx context.Context, url string, users int) (*Platform, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := host.Apply(ctx, conn, host.CMS); err != nil {
		return nil, err
	}
	p := &Platform{Names: map[uuid.UUID]string{}}
	if p.Organization, err = host.NewOrganization(ctx, conn, "Demo"); err != nil {
		return nil, err
	}
	languages := []string{"es", "en", "pt"}
	for i := range users {
		limit := Limit
		name := names[i%len(names)]
		if users > len(names) {
			name = fmt.Sprintf("%s %d", name, i/len(names)+1)
		}
		id, err := host.NewUser(ctx, conn, host.User{
			Organization: p.Organization, FullName: name, Language: &languages[i%len(languages)], Limit: &limit,
		})
		if err != nil {
			return nil, err
		}
		p.Users = append(p.Users, id)
		p.Names[id] = name
	}
	return p, nil
}

var names = []string{"Ana", "Bruno", "Carmen", "Diego", "Elena", "Felipe", "Gabriela", "Hugo", "Inés", "João", "Karla", "Luis"}

// Traffic logs calls through log_ai_usage, each of about tokens tokens by one
// of the users, at rate calls a second with Poisson arrivals, until ctx ends.
// It returns how many committed. url is the host's.
func (p *Platform) Traffic(ctx context.Context, url string, rate float64, tokens int) (int64, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return 0, err
	}
	config.MaxConns = writers
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	group, going := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for next := time.Now(); ; {
		next = next.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		select {
		case <-going.Done(): // or a call has failed
			err := group.Wait()
			return p.Calls(), err
		case <-time.After(time.Until(next)):
		}
		user := p.Users[rand.IntN(len(p.Users))]
		amount := max(1, tokens/2+rand.IntN(tokens))
		group.Go(func() error {
			// What was begun is finished: the count at the end takes in all.
			err := host.LogUsage(context.WithoutCancel(ctx), pool, user, p.Organization, amount)
			if err == nil {
				p.calls.Add(1)
			}
			return err
		})
	}
}
