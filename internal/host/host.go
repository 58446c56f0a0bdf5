package host

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"
)

//go:embed sql/*.sql
var files embed.FS

// Kind is a starting point of a migration.
type Kind int

const (
	// CMSWithTrigger is the CMS database with the host's own alerts, whose
	// first alert fails for want of a notifications table.
	CMSWithTrigger Kind = iota
	// CMS is the CMS database before the host had alerts.
	CMS
	// LMS is the LMS database: users without limits, and notifications.
	LMS
)

var kinds = map[Kind]struct {
	name  string
	files []string
}{
	CMSWithTrigger: {"cms-with-trigger", []string{"cms_tables", "usage", "check_token_limit", "token_limit_trigger"}},
	CMS:            {"cms", []string{"cms_tables", "usage", "check_token_limit"}},
	LMS:            {"lms", []string{"lms_tables", "notifications", "usage"}},
}

func (k Kind) String() string {
	if kind, ok := kinds[k]; ok {
		return kind.name
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Apply creates the host's tables, all or none, in the first schema of the
// connection's search_path. Whoever is connected owns them.
func Apply(ctx context.Context, conn *pgx.Conn, k Kind) error {
	kind, ok := kinds[k]
	if !ok {
		return fmt.Errorf("create the host's tables: no such kind: %s", k)
	}
	return apply(ctx, conn, kind.files)
}

// ApplyEmail adds the two e-mail tables, which a CMS database may have.
func ApplyEmail(ctx context.Context, conn *pgx.Conn) error {
	return apply(ctx, conn, []string{"email_services", "email_templates"})
}

// ApplyNotifications adds the table of notifications to a CMS database.
func ApplyNotifications(ctx context.Context, conn *pgx.Conn) error {
	return apply(ctx, conn, []string{"notifications"})
}

// ApplyTrigger adds the host's own alerts to a CMS database that has none.
func ApplyTrigger(ctx context.Context, conn *pgx.Conn) error {
	return apply(ctx, conn, []string{"token_limit_trigger"})
}

func apply(ctx context.Context, conn *pgx.Conn, names []string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, name := range names {
			sql, err := files.ReadFile("sql/" + name + ".sql")
			if err != nil {
				return fmt.Errorf("create the host's tables: %w", err)
			}
			// Without arguments a file of several statements goes out as one
			// simple query.
			if _, err := tx.Exec(ctx, string(sql)); err != nil {
				return fmt.Errorf("create the host's tables: %s: %w", name, err)
			}
		}
		return nil
	})
}
