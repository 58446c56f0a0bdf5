package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// An Account is all that the database knows of one user, as of one snapshot.
type Account struct {
	Now            time.Time  `json:"now"` // tokenalert.now()
	UserID         uuid.UUID  `json:"user_id"`
	OrganizationID *uuid.UUID `json:"organization_id"`
	FullName       string     `json:"full_name"`
	TokenLimit     *int64     `json:"token_limit"` // tokens for each period; nil, 0 or less: unlimited
	LimitIn        string     `json:"limit_in"`    // the column that holds it
	ResetDay       int32      `json:"reset_day"`   // 1 to 31

	Settings     *Settings `json:"settings"` // in force; nil where no worker has ever led
	Policy       Policies  `json:"policy"`
	Leader       *Leader   `json:"leader"`        // nil: nobody leads
	Standby      bool      `json:"standby"`       // then who leads is not to be seen
	OtherCluster bool      `json:"other_cluster"` // see ErrForeignChain
	OldestTick   *TickRow  `json:"oldest_tick"`   // that is kept; nil: the chain is empty
	LastTick     *TickRow  `json:"last_tick"`

	Current  *AccountPeriod  `json:"current_period"` // nil without settings, which say the zone
	Previous *AccountPeriod  `json:"previous_period"`
	Ahead    []AccountPeriod `json:"periods_ahead"` // of usage that is dated in the future

	Alerts    []AccountAlert   `json:"alerts"`    // of the current and the previous period, and the host's own
	Pending   []Pending        `json:"pending"`   // corrections of this user, and those for everybody
	Newest    []AccountRow     `json:"newest"`    // rows of usage, newest first
	Uncounted AccountUncounted `json:"uncounted"` // rows that the last tick has not counted
	Unusable  int64            `json:"unusable_rows"`
}

// AccountPeriod is a period and its running total.
type AccountPeriod struct {
	Start      time.Time `json:"start"`
	End        time.Time `json:"end"` // exclusive
	TokensUsed int64     `json:"tokens_used"`
	Marks      []int32   `json:"marks"`
	TickID     *int64    `json:"tick_id"` // that last changed the total; nil: there is none
	// RowsAddUpTo is what the rows that the last tick has counted add up to; nil
	// where nobody asked, or no tick was ever taken.
	RowsAddUpTo *int64 `json:"rows_add_up_to"`
}

// AccountAlert is one row of token_limit_alerts. What is nil in it is so in the
// rows that the host itself wrote.
type AccountAlert struct {
	Threshold      int32      `json:"threshold"`
	Sent           bool       `json:"sent"`
	Reason         string     `json:"reason,omitempty"`
	CreatedAt      *time.Time `json:"created_at"`
	SentAt         *time.Time `json:"sent_at"`
	PeriodStart    *time.Time `json:"period_start"`
	PeriodEnd      *time.Time `json:"period_end"`
	TokenLimit     *int64     `json:"token_limit"`
	TokensUsed     *int64     `json:"tokens_used"`
	PercentUsed    *float64   `json:"percent_used"`
	NotificationID *uuid.UUID `json:"notification_id"`
	TickID         *int64     `json:"tick_id"`
}

// Pending are corrections of one kind that no tick has dealt with.
type Pending struct {
	Everybody bool       `json:"everybody"` // a full count, not this user alone
	Cause     string     `json:"cause"`
	Counts    bool       `json:"counts"` // tokens anew; else only decides anew
	At        *time.Time `json:"at"`     // an instant in the earliest period that is counted
	DueAt     *time.Time `json:"due_at"` // nil: at once
	Due       bool       `json:"due"`
	Rows      int64      `json:"rows"` // of tokenalert.recounts
}

// explainTimeout bounds the whole of Explain, which sums one user's period.
const explainTimeout = time.Minute

// Explain looks at one user, by id or by email, in one read-only REPEATABLE
// READ transaction, so that all of it is of one moment. It reads no prompt and
// no response. The error says why where the user is not to be found, an email
// is that of several users, or this role may not read emails.
func (s *Store) Explain(ctx context.Context, user string) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout+10*time.Second)
	defer cancel()
	a := Account{Ahead: []AccountPeriod{}}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('row_security', 'off', true), set_config('statement_timeout', $1, true),
			set_config('lock_timeout', '1s', true), set_config('jit', 'off', true)`,
			inMilliseconds(explainTimeout)); err != nil {
			return err
		}
		id, err := findUser(ctx, tx, user)
		if err != nil {
			return err
		}
		a.UserID = id
		for _, look := range []func(context.Context, pgx.Tx) error{
			a.readUser, a.readSettings, a.readPolicy, a.readLeader, a.readChain, a.readPeriods, a.readAlerts, a.readPending, a.readUsage,
		} {
			if err := look(ctx, tx); err != nil {
				return err
			}
		}
		return sameFileStill(ctx, tx)
	})
	if err != nil {
		return Account{}, fmt.Errorf("explain: %w", s.refused(ctx, err))
	}
	return a, nil
}

// sameFileStill refuses what was read of a table that was rewritten meanwhile,
// which a snapshot does not survive (see sameFile).
func sameFileStill(ctx context.Context, tx pgx.Tx) error {
	var same bool
	err := tx.QueryRow(ctx, `SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = 'ai_usage_logs'::regclass`).Scan(&same)
	switch {
	case err != nil:
		return fmt.Errorf("look for a rewrite: %w", err)
	case !same:
		return errors.New("ai_usage_logs was truncated or rewritten at this very moment; ask again")
	}
	return nil
}

func (a *Account) readSettings(ctx context.Context, tx pgx.Tx) error {
	var err error
	a.Settings, err = scanSettings(tx.QueryRow(ctx, settingsInForce))
	return err
}

// readPolicy reads the policies that count for the user.
func (a *Account) readPolicy(ctx context.Context, tx pgx.Tx) error {
	var there bool // the schema may be older than this binary
	err := tx.QueryRow(ctx, "SELECT to_regclass('tokenalert.policies') IS NOT NULL").Scan(&there)
	if err == nil && there {
		a.Policy, err = policiesOf(ctx, tx, &a.UserID, a.OrganizationID)
	}
	if err != nil {
		return fmt.Errorf("read policies: %w", err)
	}
	return nil
}

// Thresholds are those that count for the user.
func (a *Account) Thresholds() []int32 {
	if p := a.Policy.Saying(func(p *Policy) bool { return p.Thresholds != nil }); p != nil {
		return p.Thresholds
	}
	return a.Settings.Thresholds
}

// Zone is that in which the user's periods begin.
func (a *Account) Zone() string {
	if p := a.Policy.Saying(func(p *Policy) bool { return p.TimeZone != nil }); p != nil {
		return *p.TimeZone
	}
	return a.Settings.TimeZone
}

// MutedUntil is until when a policy mutes the user, nil where none does.
func (a *Account) MutedUntil() *time.Time {
	p := a.Policy.Saying(func(p *Policy) bool { return p.MutedUntil != nil })
	if p == nil || !p.MutedUntil.After(a.Now) {
		return nil
	}
	return p.MutedUntil
}

func (a *Account) readLeader(ctx context.Context, tx pgx.Tx) error {
	if err := tx.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&a.Standby); err != nil {
		return fmt.Errorf("look for the leader: %w", err)
	}
	rows, err := tx.Query(ctx, leadSessions, leadSessionsOf...)
	if err == nil {
		a.Leader, _, err = collectLead(rows)
	}
	if err != nil {
		return fmt.Errorf("look for the leader: %w", err)
	}
	return nil
}

// bounded makes a bigint of a sum, which may be larger than one.
func bounded(sum string) string {
	return "greatest(least(coalesce(" + sum + ", 0), 9223372036854775807), -9223372036854775808)::bigint"
}

// inCalendar is an instant, or NULL where it is infinite or has no RFC 3339
// form. The host may write any.
func inCalendar(column string) string {
	return "CASE WHEN " + column + " >= '0001-01-02 00:00+00' AND " + column + " < '9999-12-30 00:00+00' THEN " + column + " END"
}
