package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"tokenalert/migrations"
)

const versionTable = "tokenalert.goose_db_version"

// migrateKey is the advisory lock under which migrations run ("tokenalM").
const migrateKey = 0x746f6b656e616c4d

// Migrator changes the schema, over a direct connection, as the owner of the
// host's tables. Two at once are safe: the second waits for the first.
type Migrator struct {
	store *Store
	// AllowPublication goes on although ai_usage_logs is published: its
	// subscribers need the column xact_id.
	AllowPublication bool
	// LockPatience bounds how long a step is tried again that did not get its
	// lock, and how long another migration is waited for. Each attempt makes the
	// host's writers queue for 200 ms at most.
	LockPatience time.Duration
	// ReportEvery is how often a long step says how far it is.
	ReportEvery time.Duration
	// Progress hears of each step in a sentence, one at a time.
	Progress func(string)
	saying   sync.Mutex
}

// NewMigrator prepares to migrate over a direct connection to url.
func NewMigrator(url string) (*Migrator, error) {
	s, err := Open(url, "")
	if err != nil {
		return nil, err
	}
	return &Migrator{store: s, LockPatience: 10 * time.Minute, ReportEvery: 5 * time.Second, Progress: func(string) {}}, nil
}

func (m *Migrator) say(sentence string) {
	m.saying.Lock()
	defer m.saying.Unlock()
	m.Progress(sentence)
}

// Close closes the connections.
func (m *Migrator) Close() { m.store.Close() }

// Up brings the schema to this binary's version. Run again, it changes nothing
// but what is broken: privileges lost in a restore, an invalid index, a chain
// from another cluster. A schema that is one version ahead it leaves as it is, so
// that a Deployment that migrates as it starts may be rolled back.
func (m *Migrator) Up(ctx context.Context) error {
	return m.locked(ctx, func(conn *pgx.Conn) error {
		installed, err := schemaVersion(ctx, conn)
		if err != nil {
			return err
		}
		switch want := migrations.Version(); {
		case installed > want+1:
			return fmt.Errorf("%w: the database has version %d, which this binary (%d) does not know; run a newer one", ErrSchema, installed, want)
		case installed > want: // what the newer binary has made, it repairs
			m.say("the schema is one version ahead of this binary, which runs on it; nothing was changed")
			return nil
		}
		if err := m.preflight(ctx, conn, installed); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS tokenalert"); err != nil {
			return fmt.Errorf("create schema tokenalert: %w", err)
		}
		if err := m.migrateQueue(ctx); err != nil {
			return err
		}
		if err := m.steps(ctx, conn, func(p *goose.Provider) (*goose.MigrationResult, error) { return p.UpByOne(ctx) }); err != nil {
			return err
		}
		if installed == 0 {
			m.say("sessions of the host that hold a cached plan of SELECT * on ai_usage_logs get " +
				"\"cached plan must not change result type\" once, until they prepare anew")
		}
		return m.repair(ctx, conn)
	})
}

// Down gives the host back what it had and keeps our history in the schema
// tokenalert_archive, where a later Up finds it.
func (m *Migrator) Down(ctx context.Context) error {
	return m.locked(ctx, func(conn *pgx.Conn) error {
		installed, err := schemaVersion(ctx, conn)
		if err != nil {
			return err
		}
		if installed == 0 {
			var interrupted bool // a down that took all down but its own version table
			if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", versionTable).Scan(&interrupted); err != nil {
				return fmt.Errorf("look for an earlier down: %w", err)
			}
			if !interrupted {
				m.say("nothing to take down: tokenalert is not installed here")
				return nil
			}
		} else if err := m.steps(ctx, conn, func(p *goose.Provider) (*goose.MigrationResult, error) { return p.Down(ctx) }); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "DROP SCHEMA tokenalert CASCADE"); err != nil {
			return fmt.Errorf("drop schema tokenalert: %w", err)
		}
		return nil
	})
}

// A Step is one migration and when it was applied (zero: pending).
type Step struct {
	Version   int64
	Name      string
	AppliedAt time.Time
}

// Status lists the migrations.
func (m *Migrator) Status(ctx context.Context) ([]Step, error) {
	conn, err := m.store.connect(ctx, appMigrate)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	installed, err := schemaVersion(ctx, conn)
	if err != nil {
		return nil, err
	}
	p, closeProvider, err := m.provider()
	if err != nil {
		return nil, err
	}
	defer closeProvider()
	var steps []Step
	if installed == 0 { // do not create the version table only to read it
		for _, source := range p.ListSources() {
			steps = append(steps, Step{Version: source.Version, Name: source.Path})
		}
		return steps, nil
	}
	status, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("migration status: %w", err)
	}
	for _, s := range status {
		steps = append(steps, Step{Version: s.Source.Version, Name: s.Source.Path, AppliedAt: s.AppliedAt})
	}
	return steps, nil
}

// locked runs f under the migration lock. It polls for it: waiting in
// pg_advisory_lock would hold a snapshot, for which CREATE INDEX CONCURRENTLY
// of the other would wait in turn.
func (m *Migrator) locked(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := m.store.connect(ctx, appMigrate)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// A lock that is left with the pooler's session would keep all others out.
	if err := m.store.requireOwnSession(ctx, conn, appMigrate); err != nil {
		return err
	}
	path, err := readSearchPath(ctx, conn)
	if err != nil {
		return fmt.Errorf("look at the search_path: %w", err)
	}
	if err := path.refuse(); err != nil {
		return err
	}
	for _, says := range path.open() {
		m.say(says)
	}
	deadline := time.Now().Add(m.LockPatience)
	for said := false; ; {
		var acquired bool
		if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(migrateKey)).Scan(&acquired); err != nil {
			return fmt.Errorf("take the migration lock: %w", err)
		}
		if acquired {
			// Said, not left to the session's end, which the server may notice
			// only after the next command has begun.
			return errors.Join(f(conn), m.unlock(ctx, conn))
		}
		if time.Now().After(deadline) {
			return m.neverUnlocked(ctx, conn)
		}
		if !said {
			m.say("another migration is running; waiting for it")
			said = true
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func (m *Migrator) unlock(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackWithin)
	defer cancel()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", int64(migrateKey)); err != nil && !conn.IsClosed() {
		return fmt.Errorf("release the migration lock: %w", err)
	}
	return nil
}

// schemaVersion returns the installed version, 0 where there is none.
func schemaVersion(ctx context.Context, db querier) (int64, error) {
	var version *int64
	err := db.QueryRow(ctx, "SELECT max(version_id) FROM "+versionTable+" WHERE is_applied").Scan(&version)
	switch code := SQLState(err); {
	case code == "42P01" || code == "3F000" || err == nil && version == nil:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return *version, nil
}

func (m *Migrator) provider() (*goose.Provider, func(), error) {
	_, to, err := m.store.current()
	if err != nil {
		return nil, nil, err
	}
	config := to.config.Copy()
	config.RuntimeParams["application_name"] = appMigrate
	db := stdlib.OpenDB(*config)
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, func() { _ = db.Close() }, nil
}

// steps applies next until there is no next, each again and again while it
// does not get its locks. Meanwhile conn, which holds the migration lock, looks
// how far the index is.
func (m *Migrator) steps(ctx context.Context, conn *pgx.Conn, next func(*goose.Provider) (*goose.MigrationResult, error)) error {
	p, closeProvider, err := m.provider()
	if err != nil {
		return err
	}
	defer closeProvider()
	for {
		var result *goose.MigrationResult
		stopReporting := m.reportIndex(ctx, conn)
		err := m.patiently(ctx, func() error {
			var err error
			result, err = next(p)
			return err
		})
		stopReporting()
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		m.say(fmt.Sprintf("%s %s (%s)", result.Direction, result.Source.Path, result.Duration.Round(time.Millisecond)))
	}
}

// reportIndex tells Progress how far the building of an index on ai_usage_logs
// is, or whom it waits for, until the returned function is called.
func (m *Migrator) reportIndex(ctx context.Context, conn *pgx.Conn) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, m.ReportEvery) == nil {
			if doing, err := indexProgress(context.WithoutCancel(ctx), conn); err == nil {
				m.say("building the index on ai_usage_logs: " + doing)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// patiently tries f again while a lock is not to be had, with pauses that let
// the host's writers through.
func (m *Migrator) patiently(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(m.LockPatience)
	for attempt := 1; ; attempt++ {
		err := f()
		if !IsTransient(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the lock was not to be had in %s and %d attempts; which sessions hold it: SELECT pid, state, xact_start FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE relation IN ('ai_usage_logs'::regclass, 'users'::regclass)): %w", m.LockPatience, attempt, err)
		}
		if attempt == 1 {
			m.say("the tables are in use; trying again until the lock is free")
		}
		if err := sleep(ctx, 300*time.Millisecond+rand.N(300*time.Millisecond)); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
