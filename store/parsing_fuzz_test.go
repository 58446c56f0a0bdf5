package store

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The name of the leading session is read back as it was written, and whatever
// else some session calls itself is shown without a mistake.
func FuzzLeader(f *testing.F) {
	for _, name := range []string{
		"", appLead, appLead + " ", appLead + " 2026-11-27T10:00:00Z", appLead + " 2026-11-27T10:00:00Z pod-1", appLead + " 2026-13-45T99:00:00Z x",
		"psql", appLead + "  x", "\xff", appLead + " 2026-11-27T10:00:00Z a b c",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		l := newLeader(7, name)
		require.Equal(t, 7, l.PID)
		require.Equal(t, name, l.Session)
		if l.Since == nil {
			require.Empty(t, l.Worker)
			return
		}
		again := newLeader(7, appLead+" "+l.Since.Format(leadSince)+" "+l.Worker)
		require.Equal(t, l.Worker, again.Worker)
		require.True(t, l.Since.Equal(*again.Since))
	})
}

// What an error says of a user's row is nothing that the row or a trigger of
// the host may have put there.
func FuzzDiscreet(f *testing.F) {
	for _, code := range []string{"22001", "23505", "P0001", "22P02", "40001", "", "2"} {
		f.Add(code, "value too long: hunter2", "users")
	}
	f.Fuzz(func(t *testing.T, code, message, table string) {
		const secret = "<hunter2>"
		err := &pgconn.PgError{
			Code: code, Message: message + secret, Detail: secret + message, Hint: secret, Where: secret, InternalQuery: secret, ColumnName: secret, TableName: table,
		}
		said := Discreet(err).Error()
		if IsData(err) && strings.Contains(said, secret) && !strings.Contains(code+table, secret) {
			t.Fatalf("%q", said)
		}
	})
}

// An array is written as PostgreSQL, or pgx in its place, reads it.
func TestArrayLiteral(t *testing.T) {
	t.Parallel()
	m := pgtype.NewMap()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(rapid.Int32()).Draw(t, "numbers")
		var got []int32
		require.NoError(t, m.Scan(pgtype.Int4ArrayOID, pgtype.TextFormatCode, []byte(arrayLiteral(want)), &got))
		require.Equal(t, append([]int32{}, want...), append([]int32{}, got...))
	})
}

// Decisions are cut into parts that hold all of them once, in their order, none
// larger than a statement takes but for a single one's alerts.
func TestChunks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		decisions := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Decision {
			return Decision{UserID: uuid.New(), Alerts: make([]Alert, rapid.IntRange(0, 10).Draw(t, "alerts"))}
		})).Draw(t, "decisions")
		for range rapid.IntRange(0, 3).Draw(t, "doubled") {
			decisions = append(decisions, decisions...)
		}
		var together []Decision
		for _, chunk := range inChunks(decisions) {
			require.NotEmpty(t, chunk)
			size := 0
			for _, d := range chunk[:len(chunk)-1] {
				size += 1 + len(d.Alerts)
			}
			require.Less(t, size, alertsPerStatement)
			together = append(together, chunk...)
		}
		require.Len(t, together, len(decisions))
		for i := range decisions {
			require.Equal(t, decisions[i].UserID, together[i].UserID)
		}
	})
}
