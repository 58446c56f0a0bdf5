package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrShadowed means that a statement could run what somebody else has put into
// the search_path, with all that our role may do.
var ErrShadowed = errors.New("search_path")

// searchPath is what the search_path of a session leads to, seen by who could
// slip something under our statements. That pg_catalog comes first does not
// help: a function or operator whose argument types fit better is chosen before
// the one that is meant (manual 10.2 and 10.3, and 5.10.6, "Usage Patterns").
//
// Trusted are superusers, the role itself, the owners of the database and of our
// schema, and the roles that the latter can act as.
type searchPath struct {
	database, role string // as SQL spells them
	// shadows are functions and operators of others that have the name of one in
	// pg_catalog, as DROP spells them, and their owners.
	shadows, shadowOwners []string
	// writable are what others may create objects in, as GRANT spells it
	// ("SCHEMA public"), and who may.
	writable, writers []string
}

// readSearchPath looks without using what it looks for: in a transaction of its
// own, in which only pg_catalog is found. What comes before that names nothing
// that could be another.
func readSearchPath(ctx context.Context, db interface {
	Begin(ctx context.Context) (pgx.Tx, error)
},
) (searchPath, error) {
	var p searchPath
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var schemas []string
		var path string
		err := tx.QueryRow(ctx, "SELECT pg_catalog.current_schemas(false)::pg_catalog.text[], pg_catalog.current_setting('search_path'::pg_catalog.text)").
			Scan(&schemas, &path)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog, pg_temp"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH path AS (
				SELECT n.* FROM pg_namespace n WHERE n.nspname = ANY ($1::text[]) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
			), us AS (
				SELECT r.oid, r.rolsuper FROM pg_roles r
				WHERE r.oid = coalesce((SELECT nspowner FROM pg_namespace WHERE nspname = 'tokenalert'), (SELECT oid FROM pg_roles WHERE rolname = current_user))
			), others AS (
				SELECT r.oid, r.rolname FROM pg_roles r, us, pg_database d
				WHERE d.datname = current_database() AND NOT r.rolsuper AND r.rolname NOT IN (current_user, 'pg_database_owner')
				  AND r.oid NOT IN (us.oid, d.datdba) AND (us.rolsuper OR NOT pg_has_role(us.oid, r.oid, 'MEMBER'))
				UNION ALL
				SELECT 0, 'PUBLIC'
			), shadows AS (
				SELECT 1 AS place, 'OPERATOR ' || o.oid::regoperator AS object, r.rolname
				FROM path JOIN pg_operator o ON o.oprnamespace = path.oid JOIN others r ON r.oid = o.oprowner
				WHERE EXISTS (SELECT FROM pg_operator c WHERE c.oprname = o.oprname AND c.oprnamespace = 'pg_catalog'::regnamespace)
				UNION ALL
				SELECT 2, CASE p.prokind WHEN 'a' THEN 'AGGREGATE ' WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END || p.oid::regprocedure, r.rolname
				FROM path JOIN pg_proc p ON p.pronamespace = path.oid JOIN others r ON r.oid = p.proowner
				WHERE EXISTS (SELECT FROM pg_proc c WHERE c.proname = p.proname AND c.pronamespace = 'pg_catalog'::regnamespace)
			), writable AS (
				SELECT DISTINCT format('SCHEMA %I', path.nspname) AS object, r.rolname
				FROM path, aclexplode(coalesce(path.nspacl, acldefault('n', path.nspowner))) a JOIN others r ON r.oid = a.grantee
				WHERE a.privilege_type = 'CREATE'
				UNION
				SELECT format('SCHEMA %I', path.nspname), r.rolname FROM path JOIN others r ON r.oid = path.nspowner
				UNION -- a schema of the role's name, which is found first
				SELECT format('DATABASE %I', d.datname), r.rolname
				FROM pg_database d, aclexplode(d.datacl) a JOIN others r ON r.oid = a.grantee
				WHERE d.datname = current_database() AND a.privilege_type = 'CREATE'
				  AND $2::text LIKE '%$user%' AND to_regnamespace(quote_ident(current_user)) IS NULL
			)
			SELECT quote_ident(current_database()), quote_ident(current_user),
			       ARRAY(SELECT object FROM shadows ORDER BY place, object), ARRAY(SELECT quote_ident(rolname) FROM shadows ORDER BY place, object),
			       ARRAY(SELECT object FROM writable ORDER BY object, rolname),
			       ARRAY(SELECT CASE rolname WHEN 'PUBLIC' THEN 'PUBLIC' ELSE quote_ident(rolname) END FROM writable ORDER BY object, rolname)`, schemas, path).
			Scan(&p.database, &p.role, &p.shadows, &p.shadowOwners, &p.writable, &p.writers)
	})
	return p, err
}

// shadowed says whose objects would be run, "" where there are none.
func (p searchPath) shadowed() string {
	if len(p.shadows) == 0 {
		return ""
	}
	named := make([]string, len(p.shadows))
	for i, object := range p.shadows {
		named[i] = object + " (" + p.shadowOwners[i] + ")"
	}
	return fmt.Sprintf("%s in the search_path of role %s may be run in place of what PostgreSQL has by that name, as that role: %s",
		plural(len(named), "object of another role", "objects of other roles"), p.role, some(named))
}

// refuse is an error where anything could be run in place of what is meant.
func (p searchPath) refuse() error {
	if says := p.shadowed(); says != "" {
		return fmt.Errorf("%w: %s; see what they are, drop them or leave their schema out of search_path", ErrShadowed, says)
	}
	return nil
}

// open says who could put something there, one sentence each.
func (p searchPath) open() []string {
	var says []string
	for i, object := range p.writable {
		who, what := "role "+p.writers[i], "objects in schema "+strings.TrimPrefix(object, "SCHEMA ")
		if p.writers[i] == "PUBLIC" {
			who = "everybody"
		}
		if strings.HasPrefix(object, "DATABASE") {
			what = "a schema by the name of role " + p.role
		}
		says = append(says, fmt.Sprintf("%s may create %s, which the search_path of role %s leads to, and with them have statements run as that role, or find other tables", who, what, p.role))
	}
	return says
}

// examinePath looks whether another role can, or does, slip something under the
// statements of this one.
func examinePath(_ context.Context, e *examination, _ pgx.Tx, x *Examined) error {
	e.path.examine(x)
	return nil
}

func (p searchPath) examine(x *Examined) {
	x.Well = "only trusted roles may create what statements find"
	if says := p.shadowed(); says != "" {
		var drop []string
		for _, object := range p.shadows {
			drop = append(drop, "DROP "+object+";")
		}
		x.find(Broken, says+". Nothing else was looked at", "see what they are and who made them; if they are not meant to be there, as a superuser or the owner of the schema:", drop...)
	}
	for i, says := range p.open() {
		x.find(Warning, says, "take the schema out of search_path, or let only who may act as the owner create things there:",
			"REVOKE CREATE ON "+p.writable[i]+" FROM "+p.writers[i]+";")
	}
}
