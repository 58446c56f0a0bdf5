package store_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// granted lists what was given to a role itself, each as GRANT spells it.
func (s *site) granted(role string) []string {
	s.t.Helper()
	return s.list(`
		WITH held AS (
			SELECT format('%s ON SCHEMA %I', privilege_type, nspname) AS privilege, grantee FROM pg_namespace, aclexplode(nspacl)
			UNION ALL
			SELECT format('%s ON %s%s', privilege_type, CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END, c.oid::regclass), grantee
			FROM pg_class c, aclexplode(relacl)
			UNION ALL
			SELECT format('%s (%I) ON %s', privilege_type, attname, attrelid::regclass), grantee
			FROM pg_attribute, aclexplode(attacl) WHERE NOT attisdropped
			UNION ALL
			SELECT format('%s ON FUNCTION %s', privilege_type, oid::regprocedure), grantee FROM pg_proc, aclexplode(proacl)
			UNION ALL
			SELECT format('%s ON DATABASE %I', privilege_type, datname), grantee
			FROM pg_database, aclexplode(datacl) WHERE datname = current_database()
		)
		SELECT privilege FROM held WHERE grantee = $1::regrole ORDER BY privilege COLLATE "C"`, role)
}

// needed is all that the runtime role is to have: whatever is added to it is
// added here, on purpose. prompt and response are not, nor the rest of users.
var needed = []string{
	"DELETE ON tokenalert.recounts",
	"DELETE ON tokenalert.river_job",
	"DELETE ON tokenalert.river_leader",
	"DELETE ON tokenalert.river_queue",
	"DELETE ON tokenalert.ticks",
	"DELETE ON tokenalert.usage_periods",
	"EXECUTE ON FUNCTION tokenalert.accounts()",
	"EXECUTE ON FUNCTION tokenalert.admins(uuid)",
	"EXECUTE ON FUNCTION tokenalert.emailed(uuid)",
	"EXECUTE ON FUNCTION tokenalert.local_midnight(timestamp without time zone,text)",
	"EXECUTE ON FUNCTION tokenalert.lock_users(uuid[])",
	"EXECUTE ON FUNCTION tokenalert.now()",
	"EXECUTE ON FUNCTION tokenalert.period_end(integer,text,timestamp with time zone)",
	"EXECUTE ON FUNCTION tokenalert.period_start(integer,text,timestamp with time zone)",
	"EXECUTE ON FUNCTION tokenalert.recipient(uuid,uuid)",
	"EXECUTE ON FUNCTION tokenalert.reset_date(integer,timestamp without time zone)",
	"EXECUTE ON FUNCTION tokenalert.river_job_state_in_bitmask(bit,tokenalert.river_job_state)",
	"INSERT (id) ON notifications",
	"INSERT (link_url) ON notifications",
	"INSERT (message) ON notifications",
	"INSERT (notification_type) ON notifications",
	"INSERT (organization_id) ON notifications",
	"INSERT (title) ON notifications",
	"INSERT (user_id) ON notifications",
	"INSERT ON token_limit_alerts",
	"INSERT ON tokenalert.budget_alerts",
	"INSERT ON tokenalert.budget_periods",
	"INSERT ON tokenalert.budget_shares",
	"INSERT ON tokenalert.recounts",
	"INSERT ON tokenalert.river_job",
	"INSERT ON tokenalert.river_leader",
	"INSERT ON tokenalert.river_queue",
	"INSERT ON tokenalert.settings",
	"INSERT ON tokenalert.ticks",
	"INSERT ON tokenalert.usage_periods",
	"SELECT (created_at) ON ai_usage_logs",
	"SELECT (full_name) ON users",
	"SELECT (id) ON users",
	"SELECT (language) ON users",
	"SELECT (organization_id) ON ai_usage_logs",
	"SELECT (organization_id) ON users",
	"SELECT (tokens_used) ON ai_usage_logs",
	"SELECT (user_id) ON ai_usage_logs",
	"SELECT (xact_id) ON ai_usage_logs",
	"SELECT ON SEQUENCE tokenalert.doorbell",
	"SELECT ON token_limit_alerts",
	"SELECT ON tokenalert.budget_alerts",
	"SELECT ON tokenalert.budget_periods",
	"SELECT ON tokenalert.budget_shares",
	"SELECT ON tokenalert.budgets",
	"SELECT ON tokenalert.goose_db_version",
	"SELECT ON tokenalert.policies",
	"SELECT ON tokenalert.recounts",
	"SELECT ON tokenalert.river_job",
	"SELECT ON tokenalert.river_leader",
	"SELECT ON tokenalert.river_queue",
	"SELECT ON tokenalert.settings",
	"SELECT ON tokenalert.ticks",
	"SELECT ON tokenalert.usage_periods",
	"SELECT ON tokenalert.user_limits",
	"UPDATE (counted) ON tokenalert.budgets",
	"UPDATE ON SEQUENCE tokenalert.doorbell",
	"UPDATE ON tokenalert.budget_periods",
	"UPDATE ON tokenalert.budget_shares",
	"UPDATE ON tokenalert.river_job",
	"UPDATE ON tokenalert.river_leader",
	"UPDATE ON tokenalert.river_queue",
	"UPDATE ON tokenalert.settings",
	"UPDATE ON tokenalert.usage_periods",
	"USAGE ON SCHEMA public",
	"USAGE ON SCHEMA tokenalert",
	"USAGE ON SEQUENCE tokenalert.river_job_id_seq",
}

// neededInCMS are those for limits that are columns of users.
var neededInCMS = []string{"SELECT (monthly_token_limit) ON users", "SELECT (token_limit_reset_day) ON users"}

func TestTheRuntimeRoleHasExactlyTheseGrants(t *testing.T) {
	t.Parallel()
	for kind, more := range map[host.Kind][]string{host.CMSWithTrigger: neededInCMS, host.CMS: neededInCMS, host.LMS: nil} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			want := slices.Sorted(slices.Values(append(slices.Clone(needed), more...)))
			assert.Equal(t, want, migratedSite(t, kind).granted(pgtest.Runtime))
		})
	}
}

// duties does once all that a worker ever does with its store, as role, and
// returns the first error.
func (s *site) duties(ctx context.Context, role string) error {
	user := s.user(0)
	s.exec("INSERT INTO tokenalert.recounts (user_id, at, cause) VALUES ($1, now(), 'test')", user)
	if !ask[bool](s, "SELECT EXISTS (SELECT FROM tokenalert.budgets)") {
		s.budget(s.org, 1000, 1, "UTC")
	}
	s.exec("UPDATE tokenalert.budgets SET counted = false")
	s.exec("DELETE FROM tokenalert.recounts WHERE cause = 'budget_begins'")
	st, err := store.Open(s.db.URLs(role))
	require.NoError(s.t, err)
	defer st.Close()
	if _, err = st.Check(ctx); err != nil {
		return err
	}
	if _, err = st.Settings(ctx); err != nil {
		return err
	}
	periods, err := st.Periods(ctx, "UTC")
	if err != nil {
		return err
	}
	if _, err = st.BeginBudgets(ctx); err != nil {
		return err
	}
	for _, kind := range []store.Kind{store.First, store.Full, store.Window} {
		s.limit(s.user(0), 100)
		s.use(user, 100)
		if _, err = st.Poll(ctx); err != nil {
			return err
		}
		if _, err = st.BeginBudgets(ctx); err != nil {
			return err
		}
		_, err = st.Tick(ctx, store.TickRequest{
			Kind: kind, Periods: periods, Floor: 80, Slice: 1000, Decisions: 1000, Worker: "test", Isolated: kind == store.Full,
			TellAdmins: func(*store.Alert, []store.Admin) {},
			Settings:   &store.Settings{TimeZone: "UTC", Thresholds: []int32{80}, Worker: "test"},
		}, func(store.Kind, time.Time, []store.Candidate) []store.Decision {
			start := time.Now().Truncate(time.Hour)
			return []store.Decision{{UserID: user, PeriodStart: start, Marks: []int32{80}, Alerts: []store.Alert{{
				ID: uuid.New(), OrganizationID: s.org, PeriodEnd: start.Add(time.Hour), Threshold: 80, TokenLimit: time.Now().UnixNano(),
				NotificationID: uuid.New(), Title: "title", Body: "body", Link: "/", Newest: &start,
				Channels: []string{"email"}, ToAdmins: true,
			}}}, {OrganizationID: s.org, PeriodStart: start, Marks: []int32{80}, Alerts: []store.Alert{{
				ID: uuid.New(), OrganizationID: s.org, PeriodEnd: start.Add(time.Hour), Threshold: 80, TokenLimit: time.Now().UnixNano(),
				NotificationID: uuid.New(), Link: "/", ToAdmins: true, Channels: []string{"webhook"},
			}}}}
		})
		if err != nil {
			return err
		}
	}
	if err = st.Recount(ctx, []store.Difference{{UserID: user, PeriodStart: time.Now()}}, "test"); err != nil {
		return err
	}
	if _, err = st.Reconcile(ctx, periods, nil); err != nil {
		return err
	}
	if _, err = st.TransactionID(ctx); err != nil {
		return err
	}
	if _, err = st.Prune(ctx, time.Hour); err != nil {
		return err
	}
	if err = s.deliverOnce(ctx, role); err != nil {
		return err
	}
	lead, err := st.ConnectLead(ctx, 10*time.Second)
	if err != nil {
		return err
	}
	defer lead.Close()
	acquired, err := lead.TryAcquire(ctx, "a-worker")
	require.True(s.t, acquired || err != nil)
	armed, armErr := lead.Arm(ctx, time.Minute)
	if armErr == nil {
		armed, armErr = lead.Arm(ctx, time.Minute)
	}
	if err = cmp.Or(err, armErr, lead.Ping(ctx), lead.Disarm(ctx), lead.Release(ctx)); err == nil && !armed {
		err = errors.New("the bell does not say that it is armed")
	}
	return err
}

// TestTheRuntimeRoleNeedsEachGrant takes away one at a time, in a database in
// which PUBLIC has nothing.
func TestTheRuntimeRoleNeedsEachGrant(t *testing.T) {
	t.Parallel()
	for _, kind := range []host.Kind{host.CMS, host.LMS} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind)
			s.exec("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
			s.superExec("REVOKE ALL ON SCHEMA public FROM PUBLIC")
			s.up()
			s.exec("REVOKE ALL ON SEQUENCE tokenalert.doorbell FROM PUBLIC")
			require.NoError(t, s.duties(t.Context(), pgtest.Runtime))
			for _, privilege := range s.granted(pgtest.Runtime) {
				if kind == host.CMS && privilege == "SELECT ON tokenalert.user_limits" {
					continue // needed where limits are kept there
				}
				s.exec("REVOKE " + privilege + " FROM " + pgtest.Runtime)
				err := s.duties(t.Context(), pgtest.Runtime)
				require.Error(t, err, "nothing needs %s", privilege)
				switch privilege {
				case "USAGE ON SCHEMA public": // names in it are not found at all
					require.ErrorContains(t, err, "does not see the table")
				case "SELECT ON SEQUENCE tokenalert.doorbell": // NULL from PostgreSQL 18 on, and an error before
				default:
					assert.Equal(t, "42501", store.SQLState(err), "without %s: %v", privilege, err)
				}
				s.exec("GRANT " + privilege + " TO " + pgtest.Runtime)
			}
			require.NoError(t, s.duties(t.Context(), pgtest.Runtime))
		})
	}
}

func TestTheRuntimeRoleMayNot(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.use(s.user(100), 10)
	runtime := s.db.ConnAs(t, pgtest.Runtime)
	for _, sql := range []string{
		"SELECT prompt FROM ai_usage_logs",
		"SELECT response FROM ai_usage_logs",
		"SELECT * FROM ai_usage_logs",
		"SELECT count(prompt) FROM ai_usage_logs",
		"COPY ai_usage_logs (response) TO STDOUT",
		"INSERT INTO ai_usage_logs DEFAULT VALUES",
		"UPDATE ai_usage_logs SET tokens_used = 0",
		"DELETE FROM ai_usage_logs",
		"TRUNCATE ai_usage_logs",
		"SELECT email FROM users",
		"SELECT FROM tokenalert.river_migration",
		"UPDATE token_limit_alerts SET alert_type = 'both'",
		"TRUNCATE tokenalert.river_job",
		"SELECT password_hash FROM users",
		"UPDATE users SET monthly_token_limit = 0",
		"DELETE FROM users",
		"SELECT id FROM users FOR KEY SHARE",
		"SELECT FROM organizations",
		"UPDATE token_limit_alerts SET alert_sent = false",
		"DELETE FROM token_limit_alerts",
		"SELECT FROM notifications",
		"UPDATE notifications SET is_read = true",
		"DELETE FROM notifications",
		"UPDATE tokenalert.ticks SET snapshot = pg_current_snapshot()",
		"DELETE FROM tokenalert.settings",
		"UPDATE tokenalert.user_limits SET monthly_token_limit = 0",
		"SELECT FROM tokenalert.takeover",
		"SELECT FROM tokenalert.granted_roles",
		"SELECT nextval('tokenalert.recounts_id_seq')",
		"SELECT tokenalert.host_privileges('host_owner')",
		"CREATE TABLE tokenalert.mine ()",
		"CREATE TABLE public.mine ()",
		"ALTER TABLE tokenalert.ticks ADD COLUMN mine integer",
	} {
		_, err := runtime.Exec(t.Context(), sql)
		assert.Equal(t, "42501", store.SQLState(err), "%s: %v", sql, err)
	}
}

func TestGrantToARoleThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	before := s.catalogue()
	err := s.migrator(pgtest.Owner, nil).Grant(t.Context(), `no "body"`)
	require.ErrorContains(t, err, "does not exist")
	require.ErrorContains(t, err, `CREATE ROLE "no ""body""" LOGIN`)
	s.requireSame(before, s.catalogue())
	assert.Equal(t, []string{pgtest.Runtime}, s.list("SELECT role::text FROM tokenalert.granted_roles"))
}

func TestGrantBeforeUp(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	err := s.migrator(pgtest.Owner, nil).Grant(t.Context(), pgtest.Runtime)
	require.ErrorIs(t, err, store.ErrSchema)
	require.ErrorContains(t, err, "migrate up")
}

func TestARoleByAnyName(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	role := s.db.Name + ` "x"; worker`
	s.superExec(`CREATE ROLE "` + s.db.Name + ` ""x""; worker" LOGIN`)
	m := s.migrator(pgtest.Owner, nil)
	require.NoError(t, m.Grant(t.Context(), role))
	assert.True(t, ask[bool](s, "SELECT has_table_privilege($1::name, 'tokenalert.ticks', 'INSERT')", role))
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Down(t.Context()))
	require.NoError(t, m.Up(t.Context()))
	assert.True(t, ask[bool](s, "SELECT has_table_privilege($1::name, 'tokenalert.ticks', 'INSERT')", role))
}

// TestDownTakesBackOnlyWhatGrantGave: the role may be one that the host has
// given something itself, down to the owner of it all.
func TestDownTakesBackOnlyWhatGrantGave(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	s.exec("GRANT SELECT ON token_limit_alerts, users TO " + pgtest.Runtime)
	s.exec("GRANT SELECT (user_id) ON ai_usage_logs TO " + pgtest.Runtime)
	before := s.catalogue()
	s.up()
	m := s.migrator(pgtest.Owner, nil)
	require.NoError(t, m.Grant(t.Context(), pgtest.Owner))
	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime)) // once more: it has them by now
	require.NoError(t, s.duties(t.Context(), pgtest.Owner))
	require.NoError(t, m.Up(t.Context()))
	s.down()
	s.requireSame(before, s.catalogue("tokenalert_archive"))
	s.up()
	s.down()
	s.requireSame(before, s.catalogue("tokenalert_archive"))
}
