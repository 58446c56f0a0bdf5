package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// TestTheDoctorSeesTransactionsThatLast: what is looked at is the whole
// cluster's, so it has one of its own.
func TestTheDoctorSeesTransactionsThatLast(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_prepared_transactions": "5"})
	s := siteOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	look := func(role, check string, change func(*store.DoctorRequest)) []store.Finding {
		q := doctorRequest(t)
		if change != nil {
			change(&q)
		}
		return examined(t, diagnose(t, s.db.URLAs(role), "", q), check).Findings
	}
	ring := func(bell string) func(*store.DoctorRequest) {
		return func(q *store.DoctorRequest) { q.Bell = bell }
	}

	// Prepared transactions are allowed.
	assert.Empty(t, look(pgtest.Owner, "prepared-transactions", ring("off")))
	found := look(pgtest.Runtime, "prepared-transactions", ring("auto"))
	require.Len(t, found, 1)
	assert.Equal(t, store.Note, found[0].Severity)
	assert.Contains(t, found[0].Says, "the worker polls, and users are told up to 250 ms later")
	assert.Contains(t, found[0].Remedy, "TOKENALERT_BELL=on")
	assert.Equal(t, []string{"ALTER SYSTEM SET max_prepared_transactions = 0;"}, found[0].Commands)
	found = look(pgtest.Owner, "prepared-transactions", ring("on"))
	require.Len(t, found, 1)
	assert.Equal(t, store.Warning, found[0].Severity)
	assert.Contains(t, found[0].Says, "cannot be prepared")
	assert.Contains(t, found[0].Remedy, "TOKENALERT_BELL=auto")

	// One is left behind.
	s.exec("BEGIN")
	s.use(s.user(100), 1)
	s.exec("PREPARE TRANSACTION 'it''s left'")
	assert.Empty(t, look(pgtest.Owner, "prepared-transactions", ring("off")), "it is not old")
	old := func(q *store.DoctorRequest) { q.Bell, q.LongPrepared = "off", time.Microsecond }
	for _, role := range []string{pgtest.Owner, pgtest.Runtime} {
		found = look(role, "prepared-transactions", old)
		require.Len(t, found, 1)
		assert.Equal(t, store.Warning, found[0].Severity)
		assert.Contains(t, found[0].Says, "transaction 'it''s left' of role host_owner in database "+s.db.Name)
		assert.Equal(t, []string{"ROLLBACK PREPARED 'it''s left';"}, found[0].Commands)
	}
	s.follow(found[0])
	assert.Empty(t, look(pgtest.Owner, "prepared-transactions", old))

	// The doctor's own transaction is none of them.
	assert.Empty(t, look("postgres", "long-transactions", func(q *store.DoctorRequest) { q.LongTransaction = time.Microsecond }))

	// One stays open, in another database.
	other := in.New(t, pgtest.Host(host.LMS)).ConnAs(t, pgtest.Writer)
	_, err := other.Exec(t.Context(), "BEGIN; SELECT 1", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	long := func(q *store.DoctorRequest) { q.LongTransaction = 50 * time.Millisecond }
	assert.Empty(t, look("postgres", "long-transactions", nil), "it is not old")
	require.Eventually(t, func() bool {
		found = look("postgres", "long-transactions", long)
		return len(found) == 1
	}, siteWithin, 10*time.Millisecond)
	assert.Equal(t, store.Warning, found[0].Severity)
	assert.Contains(t, found[0].Says, "1 transaction has been open for more than 50ms: pid ")
	assert.Contains(t, found[0].Says, "idle in transaction, role host_writer, database test_2")
	ended := found[0]

	// The runtime role does not see it, and says what would show it.
	found = look(pgtest.Runtime, "long-transactions", long)
	require.Len(t, found, 1)
	assert.Equal(t, store.Note, found[0].Severity)
	assert.Contains(t, found[0].Says, "does not see how old the transactions of")
	assert.Equal(t, []string{"GRANT pg_read_all_stats TO tokenalert_runtime;"}, found[0].Commands)
	s.follow(found[0])
	found = look(pgtest.Runtime, "long-transactions", long)
	require.Len(t, found, 1)
	assert.Equal(t, store.Warning, found[0].Severity)
	s.follow(ended)
	s.eventually("it does not end", func() bool { return len(look(pgtest.Runtime, "long-transactions", long)) == 0 })
}

func TestTheDoctorSeesAServerThatIsFull(t *testing.T) {
	t.Parallel()
	in := pgtest.StartServer(t, map[string]string{"max_connections": "20"}) // three of them a superuser's
	s := siteOn(t, in.New(t, pgtest.Migrated(host.CMS)))
	look := func() []store.Finding { return examined(t, s.diagnose(pgtest.Owner), "connections").Findings }
	delivering := func() []store.Finding {
		q := doctorRequest(t)
		q.Delivers = true
		return examined(t, diagnose(t, s.db.OwnerURL(), "", q), "connections").Findings
	}
	var others []*pgx.Conn
	for range 7 {
		others = append(others, s.db.ConnAs(t, pgtest.Writer))
	}
	assert.Empty(t, delivering(), "9 are left")
	others = append(others, s.db.ConnAs(t, pgtest.Writer))
	if found := delivering(); assert.Len(t, found, 1) {
		assert.Equal(t, "of the server's 17 connections, 9 are used by others than workers, and a worker that leads and delivers needs 9", found[0].Says)
	}
	stop := s.leads() // whose own do not count
	assert.Empty(t, look())
	stop()
	for range 3 { // and the owner's
		others = append(others, s.db.ConnAs(t, pgtest.Writer))
	}
	assert.Empty(t, look(), "5 are left")
	others = append(others, s.db.ConnAs(t, pgtest.Writer))
	found := look()
	require.Len(t, found, 1)
	assert.Equal(t, store.Warning, found[0].Severity)
	assert.Equal(t, "of the server's 17 connections, 13 are used by others than workers, and a worker that leads needs 5", found[0].Says)
	require.Len(t, found[0].Commands, 1)
	assert.True(t, strings.HasPrefix(found[0].Commands[0], "ALTER SYSTEM SET max_connections = "), found[0].Commands)
	for _, conn := range others {
		require.NoError(t, conn.Close(t.Context()))
	}
	s.eventually("they do not end", func() bool { return len(look()) == 0 })
}
