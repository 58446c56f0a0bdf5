package store_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// hostAlert inserts a row as the host's trigger leaves it; sentAt is SQL.
func (s *site) hostAlert(user uuid.UUID, threshold int, sentAt string) {
	s.t.Helper()
	s.exec(`INSERT INTO token_limit_alerts (user_id, organization_id, alert_threshold, alert_sent, alert_type, sent_at)
		VALUES ($1, $2, $3, true, 'notification', `+sentAt+`)`, user, s.org, threshold)
}

const (
	thisMonth = "date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'" // its first instant
	lastMonth = thisMonth + " - interval '1 microsecond'"                          // the last of the month before
)

func TestOldRowsSayWhoWasToldThisPeriod(t *testing.T) {
	t.Parallel()
	for name, old := range map[string]struct {
		sentAt string // of the host's rows for 80 and 90
		want   []string
		news   int
	}{
		"this month":        {thisMonth, []string{"80 carried_over", "90 carried_over"}, 0},
		"just now":          {"now()", []string{"80 carried_over", "90 carried_over"}, 0},
		"last month":        {lastMonth, []string{"80 superseded", "90 told"}, 1},
		"sent_at is NULL":   {"NULL", []string{"80 superseded", "90 told"}, 1},
		"nothing was there": {"", []string{"80 superseded", "90 told"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, host.CMSWithTrigger)
			user := s.user(0)
			s.use(user, 950)
			s.limit(user, 1000)
			if old.sentAt != "" {
				s.hostAlert(user, 80, old.sentAt)
				s.hostAlert(user, 90, old.sentAt)
			}
			s.up()
			s.work()
			assert.Equal(t, "first", ask[string](s, "SELECT kind FROM tokenalert.ticks ORDER BY id LIMIT 1"))
			assert.Equal(t, old.want, s.alerts(user))
			assert.Equal(t, old.news, s.notified(user))
			s.use(user, 100) // 100 is news to everybody
			s.work()
			assert.Equal(t, append(old.want, "100 told"), s.alerts(user))
			assert.Equal(t, old.news+1, s.notified(user))
			s.requireTotals()
		})
	}
}

func TestDownGivesTheHostItsNewestRows(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	replaced, untouched, jumped := s.user(1000), s.user(1000), s.user(1000)
	s.hostAlert(replaced, 80, lastMonth)
	s.hostAlert(untouched, 90, lastMonth)
	const form = "SELECT to_jsonb(t)::text FROM token_limit_alerts t WHERE user_id = $1 ORDER BY alert_threshold"
	theirs := s.list(form, untouched)

	s.up()
	s.use(replaced, 850) // told anew, in this period
	s.use(jumped, 850)
	s.work()
	s.limit(replaced, 2000) // and, as the limit has changed, once more
	s.work()
	s.use(replaced, 800)
	s.work()
	require.Equal(t, []string{"80 told", "80 told"}, s.alerts(replaced))
	s.use(replaced, 400) // 90 is recorded but not told
	s.work()
	require.Equal(t, []string{"80 told", "80 told", "90 superseded", "100 told"}, s.alerts(replaced))
	s.limit(jumped, 2000) // once more, but this time nobody is told of 80
	s.work()
	s.use(jumped, 1000)
	s.work()
	require.Equal(t, []string{"80 told", "80 superseded", "90 told"}, s.alerts(jumped))
	newest := s.list("SELECT id::text FROM token_limit_alerts WHERE user_id = $1 AND token_limit = 2000 ORDER BY alert_threshold", replaced)
	all := s.list("SELECT to_jsonb(t)::text FROM token_limit_alerts t ORDER BY id")

	s.down()
	assert.Equal(t, theirs, s.list(form, untouched))
	assert.Equal(t, newest, s.list("SELECT id::text FROM token_limit_alerts WHERE user_id = $1 ORDER BY alert_threshold", replaced))
	assert.Equal(t, []string{"80 t notification t", "90 f notification f", "100 t notification t"}, s.list(`
		SELECT format('%s %s %s %s', alert_threshold, alert_sent, alert_type, sent_at IS NOT NULL)
		FROM token_limit_alerts WHERE user_id = $1 ORDER BY alert_threshold`, replaced))
	assert.Equal(t, []string{"80 t", "90 t"}, s.list(`SELECT format('%s %s', alert_threshold, alert_sent)
		FROM token_limit_alerts WHERE user_id = $1 ORDER BY alert_threshold`, jumped), "what was told stands above what was not")
	assert.Equal(t, all, s.list("SELECT to_jsonb(t)::text FROM tokenalert_archive.token_limit_alerts t ORDER BY id"))

	s.up()
	assert.Equal(t, all, s.list("SELECT to_jsonb(t)::text FROM token_limit_alerts t ORDER BY id"))
}

func TestTheHostsTriggerComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for was, enable := range map[string]string{
		"O": "ENABLE TRIGGER", "D": "DISABLE TRIGGER", "A": "ENABLE ALWAYS TRIGGER", "R": "ENABLE REPLICA TRIGGER",
	} {
		t.Run(enable, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, host.CMSWithTrigger)
			s.exec("ALTER TABLE ai_usage_logs " + enable + " token_limit_check")
			user := s.user(100)
			const state = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'token_limit_check'"
			s.up()
			assert.Equal(t, "D", ask[string](s, state))
			s.use(user, 50)
			s.down()
			assert.Equal(t, was, ask[string](s, state))
			// Its first alert fails here, and the insert with it: it is at work.
			err := host.LogUsage(t.Context(), s.owner, user, s.org, 40)
			if was == "O" || was == "A" {
				assert.Equal(t, "42P01", store.SQLState(err), "%v", err)
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

// whoAlerts looks at one committed state of the catalogue.
const whoAlerts = `SELECT
	(SELECT tgenabled <> 'D' FROM pg_trigger WHERE tgname = 'token_limit_check'),
	(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tokenalert\_%'),
	EXISTS (SELECT FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE relname = 'ai_usage_logs_xact_id_idx' AND indisvalid)
	AND EXISTS (SELECT FROM pg_attrdef d WHERE adrelid = 'ai_usage_logs'::regclass AND pg_get_expr(adbin, adrelid) = 'pg_current_xact_id()')`

func TestAtNoMomentDoBothAlert(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	conn := s.db.ConnAs(t, pgtest.Owner)
	watched := make(chan struct{})
	watching, stop := context.WithCancel(t.Context())
	looks := 0
	look := func(ctx context.Context, conn *pgx.Conn) {
		var host, ready bool
		var triggers int
		if conn.QueryRow(ctx, whoAlerts).Scan(&host, &triggers, &ready) != nil {
			return // stopped
		}
		looks++
		if host {
			assert.Zero(t, triggers, "the host's trigger is on beside ours")
		} else {
			assert.Equal(t, 10, triggers, "some of our triggers, and the host's off")
			assert.True(t, ready, "taken over before column and index are there")
		}
	}
	go func() {
		defer close(watched)
		for watching.Err() == nil {
			look(watching, conn)
		}
	}()
	// Between two steps of its own it looks as well, however fast they go by.
	between := s.db.ConnAs(t, pgtest.Owner)
	var states []bool
	m := s.migrator(pgtest.Owner, func(string) {
		var host, ready bool
		var triggers int
		require.NoError(t, between.QueryRow(t.Context(), whoAlerts).Scan(&host, &triggers, &ready))
		states = append(states, host)
	})
	require.NoError(t, m.Up(t.Context()))
	up := states
	states = nil
	require.NoError(t, m.Down(t.Context()))
	stop()
	<-watched
	assert.Positive(t, looks)
	// The queue, eight steps and a remark on the way up, the sixth step takes over;
	// on the way down it is the third.
	assert.Equal(t, []bool{true, true, true, true, true, true, false, false, false, false}, up)
	assert.Equal(t, []bool{false, false, true, true, true, true, true, true}, states)
}

func TestATakeOverThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMSWithTrigger)
	user := s.user(1000)
	s.hostAlert(user, 80, "now()")
	// A row of nobody, which our foreign key refuses.
	s.exec("ALTER TABLE token_limit_alerts DROP CONSTRAINT token_limit_alerts_user_id_fkey")
	s.hostAlert(uuid.New(), 80, "now()")
	m := s.migrator(pgtest.Owner, nil)
	rows := s.list("SELECT to_jsonb(t)::text FROM token_limit_alerts t ORDER BY id")
	columns := s.list("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'token_limit_alerts'::regclass ORDER BY 1")

	require.ErrorContains(t, m.Up(t.Context()), "token_limit_alerts_user_fkey")
	assert.Equal(t, rows, s.list("SELECT to_jsonb(t)::text FROM token_limit_alerts t ORDER BY id"))
	assert.Equal(t, columns, s.list("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'token_limit_alerts'::regclass ORDER BY 1"))
	assert.Equal(t, "O", ask[string](s, "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'token_limit_check'"))
	assert.Zero(t, ask[int](s, `SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tokenalert\_%'`))
	s.use(s.user(0), 10) // inserts go on
	s.exec("DELETE FROM token_limit_alerts t WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = t.user_id)")
	require.NoError(t, m.Up(t.Context()))
}
