package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Severity says how bad a finding is.
type Severity string

// The severities. A note is worth knowing and asks for nothing. After a warning
// users are told later, or not all of them, or the host pays more than it need;
// where something is broken, the worker or the host fails.
const (
	Note    Severity = "note"
	Warning Severity = "warning"
	Broken  Severity = "broken"
)

// A Finding is something that is not as it should be, and what to do.
type Finding struct {
	Severity Severity
	Says     string
	Remedy   string   // in words
	Commands []string // exact: what ends with a semicolon is SQL, the rest is for a shell
}

// Examined is what one check came to.
type Examined struct {
	Check    string
	Well     string // what was seen, where there is nothing to find fault with
	Skipped  string // why it was not looked at; empty: it was
	Findings []Finding
}

func (x *Examined) find(severity Severity, says, remedy string, commands ...string) {
	x.Findings = append(x.Findings, Finding{Severity: severity, Says: says, Remedy: remedy, Commands: commands})
}

// A Diagnosis is what all checks came to, in their order.
type Diagnosis struct {
	Database, Role string // empty where no connection was to be had
	Checks         []Examined
}

// Count is how many findings there are of a severity.
func (d Diagnosis) Count(severity Severity) int {
	n := 0
	for _, x := range d.Checks {
		for _, f := range x.Findings {
			if f.Severity == severity {
				n++
			}
		}
	}
	return n
}

// DoctorRequest is what the doctor compares the database with.
type DoctorRequest struct {
	Settings  *Settings      // what a worker of this environment would put in force
	Zone      *time.Location // Settings.TimeZone by this binary's rules
	Bell      string         // TOKENALERT_BELL: auto, on or off
	BellLease time.Duration
	Delivers  bool             // a channel is set up
	Now       func() time.Time // the clock of this machine; nil: the real one

	// What is older is found fault with. Zero: the default.
	LongTransaction time.Duration // 15 minutes
	LongPrepared    time.Duration // an hour
	Overdue         time.Duration // a minute: what has committed and is not counted
}

// How long one statement and one check may take. What is asked is answered from
// the catalogues or from an index, so the bound is for what should not be.
const (
	statementWithin = 3 * time.Second
	checkWithin     = 15 * time.Second
)

// check is one thing to look at. look writes what it finds into x; a transaction
// that reads only is open meanwhile.
type check struct {
	name string
	need need
	look func(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error
}

// need is what a check cannot do without.
type need int

const (
	nothing need = iota
	tables       // the host's
	schema       // ours, and the host's tables
	index        // and the index on xact_id, without which it would read the whole table
	leader       // and somebody who leads
)

// Who leads is looked at before what depends on it.
var checks = []check{
	{"trusted-path", nothing, examinePath},
	{"server", nothing, examineServer},
	{"clock", nothing, examineClock},
	{"encryption", nothing, examineWire},
	{"pooler", nothing, examinePooler},
	{"schema", nothing, examineSchema},
	{"search-path", schema, examineSearchPath},
	{"column", schema, examineColumn},
	{"index", schema, examineIndex},
	{"triggers", schema, examineTriggers},
	{"host-trigger", schema, examineHostTrigger},
	{"owner", schema, examineOwner},
	{"grants", schema, examineGrants},
	{"row-security", schema, examineRowSecurity},
	{"publication", tables, examinePublication},
	{"connections", nothing, examineConnections},
	{"long-transactions", nothing, examineLongTransactions},
	{"prepared-transactions", nothing, examinePrepared},
	{"zone", schema, examineZone},
	{"settings", schema, examineSettings},
	{"limits", schema, examineLimits},
	{"budgets", schema, examineBudgets},
	{"usage-rows", tables, examineUsageRows},
	{"usage-index", tables, examineUsageIndex},
	{"chain", index, examineChain},
	{"lead", schema, examineLead},
	{"bell", schema, examineBell},
	{"lag", leader, examineLag},
	{"deliveries", schema, examineDeliveries},
}

// Doctor looks at everything that can be wrong between the worker, the server
// and the host, with what the role may see. It changes nothing. A check that
// cannot look says so and why, and the others go on. It looks over connections
// of its own, whose statements are not prepared on the server, so that it can
// also say what is wrong with a pooler.
func (s *Store) Doctor(ctx context.Context, q DoctorRequest) Diagnosis {
	e, err := s.examination(ctx, q)
	if errors.Is(err, ErrShadowed) { // any other statement might run it
		x := Examined{Check: "trusted-path"}
		e.path.examine(&x)
		return Diagnosis{Database: e.path.database, Role: e.path.role, Checks: []Examined{x}}
	}
	if err != nil {
		x := Examined{Check: "connection"}
		s.unreachable(&x, "DATABASE_URL", s.pool.Config().ConnConfig, err)
		return Diagnosis{Checks: []Examined{x}}
	}
	defer e.store.Close()
	d := Diagnosis{Database: e.database, Role: e.role}
	for _, c := range checks {
		x := Examined{Check: c.name, Skipped: e.missing(c.need)}
		if x.Skipped == "" {
			e.run(ctx, c, &x)
		}
		d.Checks = append(d.Checks, x)
	}
	return d
}

func (e *examination) run(ctx context.Context, c check, x *Examined) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	if err := e.look(ctx, func(tx pgx.Tx) error { return c.look(ctx, e, tx, x) }); err != nil {
		e.couldNotLook(x, err)
	}
}

// look runs f in a transaction that reads only. It is to be short: while it has
// looked at a table of the host, an ALTER TABLE waits for it, and whoever writes
// for that.
func (e *examination) look(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := e.store.pool.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	_, err = tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', '1s', true),
		set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`, inMilliseconds(statementWithin))
	if err != nil {
		return fmt.Errorf("prepare to look: %w", err)
	}
	return f(tx)
}

// couldNotLook turns the error of a check into a finding. Where a privilege is
// missing that is a note: what a worker must have, the check of grants says.
func (e *examination) couldNotLook(x *Examined, err error) {
	switch code := SQLState(err); {
	case code == codePrivilege:
		x.find(Note, fmt.Sprintf("role %s may not look: %v", e.role, err),
			"run the doctor as the owner of ai_usage_logs as well, or, where this role is to run the worker, as that owner:", grantCommand(e.roleName))
	case code == codeCanceled || errors.Is(err, context.DeadlineExceeded):
		x.find(Warning, fmt.Sprintf("could not look in time: %v", err),
			"run the doctor again when the server is less busy; until then this is not known")
	default:
		x.find(Warning, fmt.Sprintf("could not look: %v", err), "this is not known until the doctor is run again without the error")
	}
}
