package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// findUser returns the id of a user named by id or by email.
func findUser(ctx context.Context, tx pgx.Tx, user string) (uuid.UUID, error) {
	user = strings.TrimSpace(user)
	if id, err := uuid.Parse(user); err == nil {
		return id, nil
	}
	if err := mayReadEmails(ctx, tx); err != nil {
		return uuid.Nil, err
	}
	// The host's rule is one address per organization, in any case.
	rows, err := tx.Query(ctx, `SELECT id, coalesce(organization_id::text, 'none') FROM users
		WHERE lower(email::text) = lower($1) ORDER BY organization_id, id LIMIT 100`, user)
	if err != nil {
		return uuid.Nil, fmt.Errorf("look for the email: %w", err)
	}
	var ids []uuid.UUID
	var list []string
	var id uuid.UUID
	var organization string
	_, err = pgx.ForEachRow(rows, []any{&id, &organization}, func() error {
		ids, list = append(ids, id), append(list, fmt.Sprintf("%s (organization %s)", id, organization))
		return nil
	})
	switch {
	case err != nil:
		return uuid.Nil, fmt.Errorf("look for the email: %w", err)
	case len(ids) == 0:
		return uuid.Nil, fmt.Errorf("no user has the email %q", user)
	case len(ids) > 1:
		return uuid.Nil, fmt.Errorf("%d users have the email %q, so name one by id: %s", len(ids), user, strings.Join(list, ", "))
	}
	return ids[0], nil
}

// mayReadEmails says what to do where emails are not to be read: the role that
// runs the worker may not, since it needs none.
func mayReadEmails(ctx context.Context, tx pgx.Tx) error {
	var table *string
	var exists, allowed bool
	var role, path string
	err := tx.QueryRow(ctx, `
		SELECT t.oid::regclass::text, c.attnum IS NOT NULL, coalesce(has_column_privilege(t.oid, c.attnum, 'SELECT'), false),
		       quote_ident(current_user), current_setting('search_path')
		FROM (SELECT to_regclass('users') AS oid) t
		LEFT JOIN pg_attribute c ON c.attrelid = t.oid AND c.attname = 'email' AND NOT c.attisdropped`).
		Scan(&table, &exists, &allowed, &role, &path)
	switch {
	case err != nil:
		return fmt.Errorf("look at users: %w", err)
	case table == nil:
		return fmt.Errorf("role %s does not see the table users; its search_path is %s, and it needs USAGE on the table's schema (`tokenalert migrate grant %s`)", role, path, role)
	case !exists:
		return fmt.Errorf("table %s has no column email; name the user by id", *table)
	case !allowed:
		return fmt.Errorf("role %s may not read %s.email; name the user by id, or explain as the owner of %s, or GRANT SELECT (email) ON %s TO %s",
			role, *table, *table, *table, role)
	}
	return nil
}

// readUser reads who the user is and which limit there is.
func (a *Account) readUser(ctx context.Context, tx pgx.Tx) error {
	var name *string
	err := tx.QueryRow(ctx, `
		SELECT tokenalert.now(), a.organization_id, left(a.full_name, 200), a.token_limit, a.reset_day,
		       CASE WHEN (SELECT prosrc FROM pg_proc WHERE oid = 'tokenalert.accounts()'::regprocedure) LIKE '%tokenalert.user\_limits%'
		            THEN 'tokenalert.user_limits.monthly_token_limit' ELSE 'users.monthly_token_limit' END
		FROM tokenalert.accounts() a WHERE a.user_id = $1`, a.UserID).
		Scan(&a.Now, &a.OrganizationID, &name, &a.TokenLimit, &a.ResetDay, &a.LimitIn)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return unknownUser(ctx, tx, a.UserID)
	case err != nil:
		return fmt.Errorf("read the user: %w", err)
	}
	if name != nil {
		a.FullName = *name
	}
	return nil
}

// unknownUser is the error for an id that no user has. A host without a foreign
// key may log usage under one.
func unknownUser(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	var rows, tokens int64
	err := tx.QueryRow(ctx, `SELECT count(*), `+bounded("sum(tokens_used)")+` FROM ai_usage_logs WHERE user_id = $1`, id).Scan(&rows, &tokens)
	switch {
	case err != nil:
		return fmt.Errorf("read usage of an unknown user: %w", err)
	case rows == 0:
		return fmt.Errorf("no user has the id %s, and no usage is logged under it", id)
	}
	return fmt.Errorf("no user has the id %s; usage is logged under it (rows: %d, tokens: %d) and counted all the same, but nobody is told of it", id, rows, tokens)
}
