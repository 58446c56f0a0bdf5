package pgtest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// DB is a database that belongs to one test.
type DB struct {
	Name     string
	in       *Instance
	straight bool
}

// New clones a template, which it builds if nobody has. The clone is dropped
// when the test ends, whoever is still connected to it.
func (in *Instance) New(t testing.TB, tpl Template) *DB {
	t.Helper()
	if err := in.built(tpl); err != nil {
		t.Fatal("pgtest:", err)
	}
	db := &DB{Name: fmt.Sprintf("test_%d", in.clones.Add(1)), in: in}
	// The default strategy, wal_log since PostgreSQL 15, is as fast as file_copy
	// at this size, and asks for no checkpoint. Clones of one template may be
	// made at the same time, because nobody is connected to it.
	create := fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s OWNER %s", db.Name, identifier(tpl.database()), Owner)
	if err := in.admin(t.Context(), "postgres", create); err != nil {
		t.Fatal("pgtest: clone a template:", err)
	}
	if !in.disposable {
		t.Cleanup(func() {
			drop := fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", db.Name)
			if err := in.admin(context.Background(), "postgres", drop); err != nil {
				t.Error("pgtest: drop the test's database:", err)
			}
		})
	}
	return db
}

// URL connects as the superuser.
func (db *DB) URL() string { return db.in.server.URL(db.Name) }

// OwnerURL connects as Owner.
func (db *DB) OwnerURL() string { return db.URLAs(Owner) }

// URLAs connects as a role.
func (db *DB) URLAs(role string) string { return db.in.server.URLAs(role, db.Name) }

// TCPURL connects as a role to a database of StartTCPServer.
func (db *DB) TCPURL(role string) string { return db.in.server.TCPURL(role, db.Name) }

// WorkerURLs are DATABASE_URL and TOKENALERT_LISTEN_URL of a worker.
func (db *DB) WorkerURLs() (database, listen string) { return db.URLs(Runtime) }

// URLs are DATABASE_URL and TOKENALERT_LISTEN_URL of the product under a role.
// The second is empty unless the product goes through a pooler, which knows the
// roles of the cluster only.
func (db *DB) URLs(role string) (database, listen string) {
	if db.in.pooler == nil || db.straight || !slices.Contains(roles, role) {
		return db.URLAs(role), ""
	}
	return db.in.pooler.URLAs(role, db.Name), db.URLAs(role)
}

// Straight is the same database with URLs past any pooler, for a test that is
// about the product's own sessions.
func (db *DB) Straight() *DB {
	past := *db
	past.straight = true
	return &past
}

// Conn connects as the superuser, until the test ends.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	return connect(t, db.URL())
}

// ConnAs connects as a role, until the test ends.
func (db *DB) ConnAs(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	return connect(t, db.URLAs(role))
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal("pgtest:", err)
	}
	// Tests end connections in many ways; closing one again is no failure.
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
