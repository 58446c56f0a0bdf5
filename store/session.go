package store

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// otherSession is somebody's session as pg_stat_activity shows it: its state
// and times only to its own role and to members of pg_read_all_stats (manual
// 28.2).
type otherSession struct {
	pid                int32
	role, name, state  pgtype.Text
	transactionSeconds pgtype.Float8
}

// otherSessionColumns are those of a, a row of pg_stat_activity or none.
const otherSessionColumns = `coalesce(a.pid, 0), a.usename::text, a.application_name, a.state,
	extract(epoch FROM clock_timestamp() - a.xact_start)::float8`

func (o *otherSession) destinations() []any {
	return []any{&o.pid, &o.role, &o.name, &o.state, &o.transactionSeconds}
}

func (o *otherSession) String() string {
	s := fmt.Sprintf("session %d", o.pid)
	if o.role.Valid {
		s += " of role " + o.role.String
	}
	var known []string
	if o.name.String != "" {
		known = append(known, o.name.String)
	}
	if o.state.String != "" {
		known = append(known, o.state.String)
	}
	if o.transactionSeconds.Valid {
		age := time.Duration(o.transactionSeconds.Float64 * float64(time.Second))
		known = append(known, fmt.Sprintf("its transaction began %s ago", max(age, 0).Round(time.Second)))
	}
	if len(known) > 0 {
		s += " (" + strings.Join(known, ", ") + ")"
	}
	return s
}
