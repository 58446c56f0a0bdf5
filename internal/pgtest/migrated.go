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
