package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// Migrated is a template of the host's tables with our schema, where Runtime
// has what the worker needs.
func Migrated(kind host.Kind) Template {
	return Template{
		Name: "migrated_" + kind.String(),
		Build: func(ctx context.Context, url string) error {
			if err := Host(kind).Build(ctx, url); err != nil {
				return err
			}
			m, err := store.NewMigrator(url)
			if err != nil {
				return err
			}
			defer m.Close()
			if err := m.Up(ctx); err != nil {
				return err
			}
			return m.Grant(ctx, Runtime)
		},
	}
}

// SetNow makes tokenalert.now() answer at. It is to be moved forward only, from
// the present: what the host's triggers compare with is the real clock.
func (db *DB) SetNow(t testing.TB, at time.Time) {
	t.Helper()
	conn := connect(t, db.OwnerURL())
	defer func() { _ = conn.Close(context.Background()) }()
	_, err := conn.Exec(t.Context(), fmt.Sprintf(
		"CREATE OR REPLACE FUNCTION tokenalert.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT timestamptz '%s' $$",
		at.UTC().Format("2006-01-02 15:04:05.999999-07")), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal("pgtest: set the clock:", err)
	}
}

// HoldTicks has every tick that tells somebody wait, with all written and
// nothing committed, until the returned function is called: a trigger of the
// host's on notifications that takes its time. It takes no lock that would run
// into the tick's lock_timeout.
func (db *DB) HoldTicks(t testing.TB) (release func()) {
	t.Helper()
	holder := connect(t, db.OwnerURL())
	for _, sql := range []string{
		`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			WHILE NOT pg_try_advisory_xact_lock_shared(1) LOOP PERFORM pg_sleep(0.005); END LOOP;
			RETURN NULL;
		END $$`,
		"CREATE TRIGGER hold AFTER INSERT ON notifications FOR EACH STATEMENT EXECUTE FUNCTION hold()",
		"SELECT pg_advisory_lock(1)",
	} {
		if _, err := holder.Exec(t.Context(), sql); err != nil {
			t.Fatal("pgtest: hold ticks:", err)
		}
	}
	return func() {
		t.Helper()
		if err := holder.Close(t.Context()); err != nil {
			t.Fatal("pgtest: release ticks:", err)
		}
	}
}
