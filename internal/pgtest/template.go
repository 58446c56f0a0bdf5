package pgtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/internal/host"
)

// buildWithin bounds the building of a template.
const buildWithin = 2 * time.Minute

// Template is what a database contains when a test begins.
type Template struct {
	// Name identifies the template within a server: two templates of one name
	// must be the same.
	Name string
	// Build fills an empty database. The URL is that of Owner. All its
	// connections must be closed when it returns.
	Build func(ctx context.Context, url string) error
}

// Host is a template of the host's tables and nothing else, owned by Owner.
func Host(kind host.Kind) Template {
	return Template{
		Name: "host_" + kind.String(),
		Build: func(ctx context.Context, url string) error {
			conn, err := pgx.Connect(ctx, url)
			if err != nil {
				return err
			}
			return errors.Join(host.Apply(ctx, conn, kind), conn.Close(ctx))
		},
	}
}

// template is a Template that is built on a server at most once.
type template struct {
	once sync.Once
	err  error
}

// database names the template's database.
func (tpl Template) database() string { return "template_" + tpl.Name }

// built makes sure that a template's database exists. Whoever comes while it is
// being built waits.
func (in *Instance) built(tpl Template) error {
	in.mu.Lock()
	t, ok := in.templates[tpl.Name]
	if !ok {
		t = new(template)
		in.templates[tpl.Name] = t
	}
	in.mu.Unlock()
	t.once.Do(func() {
		if err := in.build(tpl); err != nil {
			t.err = fmt.Errorf("build template %s: %w", tpl.Name, err)
		}
	})
	return t.err
}

// build uses a context of its own: the first test to ask builds for all.
func (in *Instance) build(tpl Template) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildWithin)
	defer cancel()
	db := tpl.database()
	if err := in.admin(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", identifier(db), Owner)); err != nil {
		return err
	}
	// As on PostgreSQL 15 and later, nobody else may create anything here.
	err := in.admin(ctx, db,
		"ALTER SCHEMA public OWNER TO "+Owner,
		"REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	if err != nil {
		return err
	}
	if err := tpl.Build(ctx, in.server.URLAs(Owner, db)); err != nil {
		return err
	}
	// A session in a template would keep it from being cloned.
	return in.admin(ctx, "postgres", fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", identifier(db)))
}

func identifier(name string) string { return pgx.Identifier{name}.Sanitize() }
