package host

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a connection, a pool or a transaction of pgx.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// User is what a test or the demo decides about a user.
type User struct {
	Organization uuid.UUID
	Email        string  // empty: one that nobody else has
	FullName     string  // empty: some name
	Language     *string // as "es-CL"; nil: NULL
	Limit        *int    // tokens for each period; nil: NULL, as good as no limit
	ResetDay     *int    // day of the month; nil: NULL, as good as the first
}

// NewOrganization inserts an organization and returns its id.
func NewOrganization(ctx context.Context, db DB, name string) (uuid.UUID, error) {
	var id uuid.UUID
	err := db.QueryRow(ctx, "INSERT INTO organizations (name) VALUES ($1) RETURNING id", name).Scan(&id)
	if err != nil {
		return uuid.Nil, fmt.Errorf("insert organization %q: %w", name, err)
	}
	return id, nil
}

// NewUser inserts a user and returns the id. An LMS has no limits, and refuses
// a user with one.
func NewUser(ctx context.Context, db DB, u User) (uuid.UUID, error) {
	id := uuid.New()
	if u.Email == "" {
		u.Email = id.String() + "@example.org"
	}
	if u.FullName == "" {
		u.FullName = "Ada Example"
	}
	limited, err := hasLimits(ctx, db)
	if err != nil {
		return uuid.Nil, err
	}
	sql := `INSERT INTO users (id, organization_id, email, password_hash, full_name, language)
		VALUES ($1, $2, $3, 'none', $4, $5)`
	args := []any{id, u.Organization, u.Email, u.FullName, u.Language}
	switch {
	case limited:
		sql = `INSERT INTO users (id, organization_id, email, password_hash, full_name, language,
			monthly_token_limit, token_limit_reset_day)
			VALUES ($1, $2, $3, 'none', $4, $5, $6, $7)`
		args = append(args, u.Limit, u.ResetDay)
	case u.Limit != nil || u.ResetDay != nil:
		return uuid.Nil, fmt.Errorf("insert user %s: users have no limit columns here", u.Email)
	}
	if _, err := db.Exec(ctx, sql, args...); err != nil {
		return uuid.Nil, fmt.Errorf("insert user %s: %w", u.Email, err)
	}
	return id, nil
}

func hasLimits(ctx context.Context, db DB) (bool, error) {
	var has bool
	err := db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_attribute
		WHERE attrelid = 'users'::regclass AND attname = 'monthly_token_limit' AND NOT attisdropped)`).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("look at the columns of users: %w", err)
	}
	return has, nil
}

// LogUsage logs an AI call as the host does, three quarters of the tokens in
// the prompt.
func LogUsage(ctx context.Context, db DB, user, org uuid.UUID, tokens int) error {
	output := tokens / 4
	_, err := db.Exec(ctx, `SELECT log_ai_usage($1, $2, $3, $4, $5, '/api/chat', 'example-model', 'chat', '{}', $6, $7)`,
		user, org, tokens, tokens-output, output, "What is a token?", "A piece of a word.")
	if err != nil {
		return fmt.Errorf("log usage of user %s: %w", user, err)
	}
	return nil
}
