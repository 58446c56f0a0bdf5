package store_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// siteWithin bounds how long a test waits for what must come. It is never
// waited for in full but by a test that fails.
const siteWithin = 20 * time.Second

// site is a host's database, seen by the owner of its tables, who migrates it.
type site struct {
	t     *testing.T
	db    *pgtest.DB
	owner *pgx.Conn
	org   uuid.UUID
}

// newSite has the host's tables and nothing else.
func newSite(t *testing.T, kind host.Kind) *site {
	t.Helper()
	return siteOn(t, pgtest.New(t, pgtest.Host(kind)))
}

// migratedSite has our schema as well, and a runtime role.
func migratedSite(t *testing.T, kind host.Kind) *site {
	t.Helper()
	return siteOn(t, pgtest.New(t, pgtest.Migrated(kind)))
}

func siteOn(t *testing.T, db *pgtest.DB) *site {
	t.Helper()
	s := &site{t: t, db: db, owner: db.ConnAs(t, pgtest.Owner)}
	var err error
	s.org, err = host.NewOrganization(t.Context(), s.owner, "Example")
	require.NoError(t, err)
	return s
}

func (s *site) exec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.owner.Exec(s.t.Context(), sql, args...)
	require.NoError(s.t, err, sql)
}

// superExec is for what only a superuser may break.
func (s *site) superExec(sql string, args ...any) {
	s.t.Helper()
	_, err := s.db.Conn(s.t).Exec(s.t.Context(), sql, args...)
	require.NoError(s.t, err, sql)
}

// ask returns the one value that a query yields.
func ask[T any](s *site, sql string, args ...any) T {
	s.t.Helper()
	var v T
	require.NoError(s.t, s.owner.QueryRow(s.t.Context(), sql, args...).Scan(&v), sql)
	return v
}

// list returns the rows of a query, each a text.
func (s *site) list(sql string, args ...any) []string {
	s.t.Helper()
	rows, err := s.owner.Query(s.t.Context(), sql, args...)
	require.NoError(s.t, err, sql)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(s.t, err, sql)
	return lines
}

// migrator migrates as role; what it says goes to said.
func (s *site) migrator(role string, said func(string)) *store.Migrator {
	s.t.Helper()
	m, err := store.NewMigrator(s.db.URLAs(role))
	require.NoError(s.t, err)
	s.t.Cleanup(m.Close)
	if said != nil {
		m.Progress = said
	}
	return m
}

// up migrates and gives the runtime role what it needs.
func (s *site) up() {
	s.t.Helper()
	m := s.migrator(pgtest.Owner, nil)
	require.NoError(s.t, m.Up(s.t.Context()))
	require.NoError(s.t, m.Grant(s.t.Context(), pgtest.Runtime))
}

func (s *site) down() {
	s.t.Helper()
	require.NoError(s.t, s.migrator(pgtest.Owner, nil).Down(s.t.Context()))
}

// user makes a user; a limit of 0 is none.
func (s *site) user(limit int) uuid.UUID {
	s.t.Helper()
	u := host.User{Organization: s.org}
	if limit > 0 {
		u.Limit = &limit
	}
	id, err := host.NewUser(s.t.Context(), s.owner, u)
	require.NoError(s.t, err)
	return id
}

// use logs usage as the host does.
func (s *site) use(user uuid.UUID, tokens int) {
	s.t.Helper()
	require.NoError(s.t, host.LogUsage(s.t.Context(), s.owner, user, s.org, tokens))
}

// runtime opens a store under the runtime role.
func (s *site) runtime() *store.Store {
	s.t.Helper()
	st, err := store.Open(s.db.WorkerURLs())
	require.NoError(s.t, err)
	s.t.Cleanup(st.Close)
	return st
}

// ownerStore is what a command of the owner works with.
func (s *site) ownerStore() *store.Store {
	s.t.Helper()
	st, err := store.OpenFor("test", s.db.OwnerURL(), "")
	require.NoError(s.t, err)
	s.t.Cleanup(st.Close)
	return st
}

// work runs a worker under the runtime role until everything that has committed
// is counted and told, and stops it.
func (s *site) work() {
	s.t.Helper()
	st, err := store.Open(s.db.WorkerURLs())
	require.NoError(s.t, err)
	defer st.Close()
	c := worker.DefaultConfig()
	c.LeadRetry = 100 * time.Millisecond
	health := worker.NewHealth(time.Now, worker.HealthBounds{Live: 90 * time.Second, Answer: 10 * time.Second, Tick: 30 * time.Second})
	w, err := worker.New(c, st, zap.NewNop(), worker.NewMetrics("test", "test"), health)
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(s.t, <-ended)
	}()
	s.eventually("there is work that nobody does", func() bool {
		select {
		case err := <-ended:
			ended <- err
			require.NoError(s.t, err, "the worker ended")
		default:
		}
		p, err := st.Poll(s.t.Context())
		require.NoError(s.t, err)
		return !p.Work
	})
}

// locked reports whether some session has an advisory lock in this database, such
// as that of a lead, or waits for one.
func (s *site) locked() bool {
	s.t.Helper()
	return ask[bool](s, "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))")
}

// eventually waits for a condition.
func (s *site) eventually(message string, condition func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(siteWithin); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(s.t, message)
		}
	}
}

// alerts describes a user's alert rows: threshold, then "told" or the reason.
func (s *site) alerts(user uuid.UUID) []string {
	s.t.Helper()
	return s.list(`SELECT format('%s %s', alert_threshold, CASE WHEN alert_sent THEN 'told' ELSE reason END)
		FROM token_limit_alerts WHERE user_id = $1 AND period_start IS NOT NULL
		ORDER BY period_start, token_limit, alert_threshold`, user)
}

// notified is how many notifications a user has.
func (s *site) notified(user uuid.UUID) int {
	s.t.Helper()
	return ask[int](s, "SELECT count(*) FROM notifications WHERE user_id = $1", user)
}

// requireTotals compares every total with a sum by plain SQL; all users must
// have the reset day 1.
func (s *site) requireTotals() {
	s.t.Helper()
	require.Empty(s.t, s.list(`
		SELECT format('user %s: counted %s, rows %s', user_id, p.tokens_used, u.tokens)
		FROM (SELECT user_id, date_trunc('month', created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS period_start,
		             sum(tokens_used) AS tokens FROM ai_usage_logs GROUP BY 1, 2) u
		FULL JOIN tokenalert.usage_periods p USING (user_id, period_start)
		WHERE coalesce(u.tokens, 0) <> coalesce(p.tokens_used, 0)`))
}

// catalogue describes all that is in the database but for the data and schemas
// left out: whatever a migration could make, change or leave behind.
func (s *site) catalogue(without ...string) []string {
	s.t.Helper()
	return s.list(catalogueLines, append(without, "pg_catalog", "information_schema"))
}

// requireSame compares two catalogues and shows only what differs.
func (s *site) requireSame(before, after []string) {
	s.t.Helper()
	gone := slices.DeleteFunc(slices.Clone(before), func(line string) bool { return slices.Contains(after, line) })
	left := slices.DeleteFunc(slices.Clone(after), func(line string) bool { return slices.Contains(before, line) })
	if len(gone)+len(left) > 0 {
		require.FailNow(s.t, "the catalogue differs", "gone:\n%s\nadded:\n%s", strings.Join(gone, "\n"), strings.Join(left, "\n"))
	}
}

// Privileges are written out, because a NULL and the list of the default ones
// mean the same.
const catalogueLines = `
WITH schemas AS (
	SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
	WHERE nspname <> ALL ($1::text[]) AND nspname NOT LIKE 'pg\_t%'
), relations AS (
	SELECT c.*, n.nspname, n.nspname || '.' || c.relname AS name FROM pg_class c JOIN schemas n ON n.oid = c.relnamespace
), lines AS (
	SELECT format('schema %s of %s', nspname, nspowner::regrole) AS line FROM schemas
	UNION ALL
	SELECT format('privilege on schema %s: %s to %s', nspname, privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
	FROM schemas, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
	UNION ALL
	SELECT format('relation %s %s of %s %s, row security %s', relkind, name, relowner::regrole, reloptions, relrowsecurity) FROM relations
	UNION ALL
	SELECT format('privilege on relation %s: %s to %s', name, privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
	FROM relations, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner)))
	WHERE relkind IN ('r', 'v', 'S', 'p')
	UNION ALL
	SELECT format('column %s.%s %s not null %s default %s: %s', name, attname, format_type(atttypid, atttypmod), attnotnull,
	              pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, attnum))
	FROM relations c JOIN pg_attribute a ON a.attrelid = c.oid
	LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = attnum
	WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'v', 'p')
	UNION ALL
	SELECT format('privilege on column %s.%s: %s to %s', name, attname, privilege_type, grantee::regrole)
	FROM relations c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(attacl) WHERE NOT attisdropped
	UNION ALL
	SELECT format('index %s valid %s', pg_get_indexdef(indexrelid), indisvalid) FROM pg_index JOIN relations c ON c.oid = indexrelid
	UNION ALL
	SELECT format('constraint %s on %s: %s', conname, name, pg_get_constraintdef(k.oid)) FROM pg_constraint k JOIN relations c ON c.oid = conrelid
	UNION ALL
	SELECT format('trigger %s: %s', tgenabled, pg_get_triggerdef(t.oid))
	FROM pg_trigger t JOIN relations c ON c.oid = tgrelid WHERE NOT tgisinternal
	UNION ALL
	SELECT format('function of %s: %s', proowner::regrole, pg_get_functiondef(p.oid))
	FROM pg_proc p JOIN schemas n ON n.oid = pronamespace WHERE prokind = 'f'
	UNION ALL
	SELECT format('privilege on function %s: %s to %s', p.oid::regprocedure, privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
	FROM pg_proc p JOIN schemas n ON n.oid = pronamespace, aclexplode(coalesce(proacl, acldefault('f', proowner)))
	UNION ALL
	SELECT format('type %s.%s', nspname, typname) FROM pg_type t JOIN schemas n ON n.oid = typnamespace
	UNION ALL
	SELECT format('publication %s', pubname) FROM pg_publication
)
SELECT line FROM lines ORDER BY line COLLATE "C"`

// diary keeps what a migrator says.
type diary struct {
	mu        sync.Mutex
	sentences []string
}

func (d *diary) note(sentence string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sentences = append(d.sentences, sentence)
}

func (d *diary) has(part string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Contains(strings.Join(d.sentences, "\n"), part)
}
