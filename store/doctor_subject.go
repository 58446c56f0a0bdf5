package store

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// examination is what the checks share: connections, and what is known of the
// database before the first of them looks.
type examination struct {
	store *Store // connections of its own
	q     DoctorRequest

	database, role string // as SQL spells them
	roleName       string // as it is
	roleOID        uint32
	version        int    // as server_version_num
	versionText    string // as server_version
	installed      bool   // our schema is there, of whatever version
	indexed        bool   // and so is its index
	led            bool   // somebody leads
	ledSince       time.Time
	path           searchPath

	// The host's tables by their unqualified names. Those that carry our marks
	// are known by them, also where search_path leads elsewhere.
	host map[string]hostTable
}

// hostTable is one of the host's tables.
type hostTable struct {
	oid, owner              uint32
	name, schema, ownerName string // as SQL spells them
	onPath                  bool   // search_path finds this one
}

// The oldest server that the SQL of the product runs on.
const oldestVersion = 140000

func (s *Store) examination(ctx context.Context, q DoctorRequest) (*examination, error) {
	if q.Now == nil {
		q.Now = time.Now
	}
	if q.LongTransaction == 0 {
		q.LongTransaction = 15 * time.Minute
	}
	if q.LongPrepared == 0 {
		q.LongPrepared = time.Hour
	}
	if q.Overdue == 0 {
		q.Overdue = time.Minute
	}
	config := s.pool.Config()
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	_, to, err := s.current()
	if err != nil {
		return nil, err
	}
	direct := to.config.Copy()
	direct.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	own := &addresses{direct: address{direct, newRoute(&direct.Config)}}
	e := &examination{store: &Store{addresses: own, pool: pool}, q: q}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	if e.path, err = readSearchPath(ctx, pool); err == nil {
		err = e.path.refuse()
	}
	if err != nil {
		pool.Close()
		return e, err
	}
	err = pool.QueryRow(ctx, `
		SELECT quote_ident(current_database()), quote_ident(r.rolname), r.rolname::text, r.oid,
		       current_setting('server_version_num')::integer, current_setting('server_version'),
		       EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		               WHERE n.nspname = 'tokenalert' AND c.relname = 'goose_db_version')
		FROM pg_roles r WHERE r.rolname = current_user`).
		Scan(&e.database, &e.role, &e.roleName, &e.roleOID, &e.version, &e.versionText, &e.installed)
	if err == nil {
		err = e.findHost(ctx)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return e, nil
}

// findHost looks for the host's tables by what migrating has left on them, so
// that another table of the same name earlier in search_path is not taken for
// ours, and a lost USAGE does not hide them.
func (e *examination) findHost(ctx context.Context) error {
	rows, err := e.store.pool.Query(ctx, `
		WITH marked (name, oid) AS (
			SELECT CASE t.tgname WHEN 'tokenalert_ring' THEN 'ai_usage_logs' ELSE 'users' END, t.tgrelid
			FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE t.tgname IN ('tokenalert_ring', 'tokenalert_user_added') AND n.nspname = 'tokenalert'
			UNION ALL
			SELECT 'token_limit_alerts', conrelid FROM pg_constraint WHERE conname = 'token_limit_alerts_told_once'
			UNION ALL
			SELECT 'organizations', confrelid FROM pg_constraint WHERE conname = 'token_limit_alerts_organization_fkey'
		), found AS (
			SELECT name, coalesce((SELECT m.oid FROM marked m WHERE m.name = w.name ORDER BY m.oid = to_regclass(w.name) DESC NULLS LAST LIMIT 1),
			                      to_regclass(w.name)) AS oid
			FROM unnest('{ai_usage_logs,users,organizations,token_limit_alerts,notifications}'::text[]) AS w (name)
		), all_found AS (
			SELECT f.name, coalesce(f.oid, (SELECT c.oid FROM pg_class c WHERE c.relname = f.name AND c.relnamespace =
				(SELECT u.relnamespace FROM pg_class u JOIN found ON found.oid = u.oid WHERE found.name = 'ai_usage_logs'))) AS oid
			FROM found f
		)
		SELECT f.name, c.oid, format('%I.%I', n.nspname, c.relname), format('%I', n.nspname), c.relowner, format('%I', pg_get_userbyid(c.relowner)),
		       coalesce(to_regclass(f.name) = c.oid, false)
		FROM all_found f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace`)
	if err != nil {
		return fmt.Errorf("look for the host's tables: %w", err)
	}
	e.host = map[string]hostTable{}
	var name string
	var t hostTable
	_, err = pgx.ForEachRow(rows, []any{&name, &t.oid, &t.name, &t.schema, &t.owner, &t.ownerName, &t.onPath}, func() error {
		e.host[name] = t
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for the host's tables: %w", err)
	}
	return nil
}

// usage is the host's table of usage.
func (e *examination) usage() hostTable { return e.host["ai_usage_logs"] }

// missing says why a check cannot look, "" where it can.
func (e *examination) missing(n need) string {
	switch {
	case n > nothing && e.version < oldestVersion:
		return "PostgreSQL is too old"
	case n > nothing && e.usage().oid == 0:
		return "there is no table ai_usage_logs"
	case n >= schema && !e.installed:
		return "tokenalert is not installed"
	case n >= index && !e.indexed:
		return "without its index it would read all of ai_usage_logs"
	case n >= leader && !e.led:
		return "nobody leads"
	}
	return ""
}

// asOwner begins a remedy that takes the role which owns the host's tables.
const asOwner = "as the owner of ai_usage_logs:"

const migrateUp = "tokenalert migrate up"

func grantCommand(role string) string { return "tokenalert migrate grant " + shellWord(role) }

func grantReadCommand(role string) string {
	return "tokenalert migrate grant --read " + shellWord(role)
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// shellWord quotes an argument for a POSIX shell, where that is needed.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// few is how many of many are named.
const few = 5

// some lists the first few of many.
func some(list []string) string {
	if len(list) <= few+1 {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

// plural is "1 row" or "2 rows".
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
