package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PolicyOf names whom a policy is of: an organization or a user, not both.
type PolicyOf struct{ Organization, User *uuid.UUID }

func (of PolicyOf) String() string {
	if of.User != nil {
		return "user " + of.User.String()
	}
	return "organization " + of.Organization.String()
}

// A Policy is what an organization, or a user, is told otherwise than the
// settings say. What is nil says nothing.
type Policy struct {
	OrganizationID *uuid.UUID `json:"organization_id"`
	UserID         *uuid.UUID `json:"user_id"`
	Thresholds     []int32    `json:"thresholds"` // percent, ascending
	TimeZone       *string    `json:"time_zone"`  // in which periods begin
	Language       *string    `json:"language"`
	Channels       []string   `json:"channels"` // empty and not nil: the notification alone
	MutedUntil     *time.Time `json:"muted_until"`
	AdminsFrom     *int32     `json:"admins_from"` // lowest threshold of which admins are told too; 0: of none
	Budget         *int64     `json:"budget"`      // of an organization: tokens in a period, all members together
	BudgetResetDay *int32     `json:"budget_reset_day"`
	BudgetTimeZone *string    `json:"budget_time_zone"`
	ChangedAt      time.Time  `json:"changed_at"`
}

// MutedForever is what an infinite time, which the database may hold, is read as.
var MutedForever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

const policyColumns = `organization_id, user_id, thresholds, time_zone, language, channels, CASE muted_until
	WHEN 'infinity' THEN '9999-12-31 00:00+00' WHEN '-infinity' THEN '2000-01-01 00:00+00' ELSE muted_until END AS muted_until, admins_from,
	budget, budget_reset_day, budget_time_zone, changed_at`

// saysNothing is a policy that was removed.
const saysNothing = `num_nonnulls(thresholds, time_zone, language, channels, muted_until, admins_from, budget) = 0`

// PolicyChange sets what is not nil, to nothing where it points to nil.
type PolicyChange struct {
	Thresholds *[]int32
	TimeZone   **string
	Language   **string
	Channels   *[]string
	MutedUntil **time.Time
	AdminsFrom **int32
	// Without a budget there is neither of the others. Where one of these is nil,
	// the database takes the first, and the organization's zone or the settings'.
	Budget         **int64
	BudgetResetDay **int32
	BudgetTimeZone **string
}

// RemovePolicy is the change after which a policy says nothing.
func RemovePolicy() PolicyChange {
	return PolicyChange{Thresholds: new([]int32), TimeZone: new(*string), Language: new(*string), Channels: new([]string), MutedUntil: new(*time.Time), AdminsFrom: new(*int32), Budget: new(*int64)}
}

func (c PolicyChange) apply(p *Policy) error {
	if c.Thresholds != nil {
		p.Thresholds = *c.Thresholds
	}
	if c.TimeZone != nil {
		p.TimeZone = *c.TimeZone
	}
	if c.Language != nil {
		p.Language = *c.Language
	}
	if c.Channels != nil {
		p.Channels = *c.Channels
	}
	if c.MutedUntil != nil {
		p.MutedUntil = *c.MutedUntil
	}
	if c.AdminsFrom != nil {
		p.AdminsFrom = *c.AdminsFrom
	}
	if c.Budget != nil {
		p.Budget = *c.Budget
	}
	if c.BudgetResetDay != nil {
		p.BudgetResetDay = *c.BudgetResetDay
	}
	if c.BudgetTimeZone != nil {
		p.BudgetTimeZone = *c.BudgetTimeZone
	}
	if p.Budget == nil {
		if c.BudgetResetDay != nil || c.BudgetTimeZone != nil {
			return errors.New("there is no budget that could begin on a day or in a zone: name one with --budget")
		}
		p.BudgetResetDay, p.BudgetTimeZone = nil, nil
	}
	return nil
}

// ChangedPolicy is a policy after a change, and whom that is about: everybody
// with a total in their current period, as the tick that follows finds them.
type ChangedPolicy struct {
	Before, After Policy
	Now           time.Time
	Settings      *Settings // in force; nil where no worker has ever led
	Candidates    []Candidate
	Admins        int // who are told of a budget
	// Recorded are the alerts of candidates that there are already: each is
	// written once.
	Recorded map[AlertKey]bool
}

// An AlertKey is what the database has an alert of once.
type AlertKey struct {
	Subject
	PeriodStart int64 // in microseconds
	Threshold   int32
	TokenLimit  int64
}

// Key is what the alert of a threshold is known by.
func (c *Candidate) Key(threshold int32) AlertKey {
	return AlertKey{c.Subject(), c.PeriodStart.UnixMicro(), threshold, c.TokenLimit}
}

// policyKey is the advisory lock under which policies change ("tokenaln"), as
// their trigger has it too.
const policyKey = 0x746f6b656e616c6e

var errDryRun = errors.New("only asked")

// ChangePolicy changes a policy; the next tick goes by it. With dryRun it only
// says what would be. It takes the owner of the tables. An error that
// IsData is about the values.
func (s *Store) ChangePolicy(ctx context.Context, of PolicyOf, change PolicyChange, dryRun bool) (ChangedPolicy, error) {
	var c ChangedPolicy
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if err := mustExist(ctx, tx, of); err != nil {
			return err
		}
		// As its trigger does: of two changes at once the second sees the first.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(policyKey)); err != nil {
			return err
		}
		before, err := readPolicy(ctx, tx, of)
		if err != nil {
			return err
		}
		c.Before = *before
		after := *before
		if err := change.apply(&after); err != nil {
			return err
		}
		if c.After, err = writePolicy(ctx, tx, after); err != nil {
			return err
		}
		if err := c.readCandidates(ctx, tx, of); err != nil {
			return err
		}
		if dryRun {
			return errDryRun // which rolls it back
		}
		return nil
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	return c, policyError(of, err)
}

// policyError says whose policy an error is about, and who may.
func policyError(of PolicyOf, err error) error {
	if SQLState(err) == codePrivilege {
		err = fmt.Errorf("it takes the owner of the host's tables: %w", err)
	}
	if err != nil {
		err = fmt.Errorf("policy of %s: %w", of, err)
	}
	return err
}

func mustExist(ctx context.Context, tx pgx.Tx, of PolicyOf) error {
	var exists bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users WHERE id = $1) OR EXISTS (SELECT FROM organizations WHERE id = $2)
		OR EXISTS (SELECT FROM tokenalert.policies WHERE user_id = $1 OR organization_id = $2)`,
		of.User, of.Organization).Scan(&exists)
	if err == nil && !exists {
		return errors.New("nobody has this id")
	}
	return err
}

// readPolicy returns one that says nothing where there is none.
func readPolicy(ctx context.Context, tx pgx.Tx, of PolicyOf) (*Policy, error) {
	rows, err := tx.Query(ctx, `SELECT `+policyColumns+` FROM tokenalert.policies WHERE user_id = $1 OR organization_id = $2`, of.User, of.Organization)
	if err != nil {
		return nil, err
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Policy])
	if errors.Is(err, pgx.ErrNoRows) {
		return &Policy{OrganizationID: of.Organization, UserID: of.User}, nil
	}
	return &p, err
}

func writePolicy(ctx context.Context, tx pgx.Tx, p Policy) (Policy, error) {
	key := "organization_id"
	if p.UserID != nil {
		key = "user_id"
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO tokenalert.policies AS p (organization_id, user_id, thresholds, time_zone, language, channels, muted_until, admins_from,
			budget, budget_reset_day, budget_time_zone, added, version, changed_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '{}', 0, now())
		ON CONFLICT (`+key+`) DO UPDATE SET thresholds = EXCLUDED.thresholds, time_zone = EXCLUDED.time_zone, language = EXCLUDED.language,
			channels = EXCLUDED.channels, muted_until = EXCLUDED.muted_until, admins_from = EXCLUDED.admins_from,
			budget = EXCLUDED.budget, budget_reset_day = EXCLUDED.budget_reset_day, budget_time_zone = EXCLUDED.budget_time_zone
		RETURNING `+policyColumns, p.OrganizationID, p.UserID, p.Thresholds, p.TimeZone, p.Language, p.Channels, p.MutedUntil, p.AdminsFrom,
		p.Budget, p.BudgetResetDay, p.BudgetTimeZone)
	if err != nil {
		return p, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Policy])
}

// SameBudgetPeriods reports whether p and other have a budget, and its periods
// begin alike.
func (p *Policy) SameBudgetPeriods(other Policy) bool {
	return p.Budget != nil && other.Budget != nil && *p.BudgetResetDay == *other.BudgetResetDay && *p.BudgetTimeZone == *other.BudgetTimeZone
}

// Users are how many of the candidates are users.
func (c *ChangedPolicy) Users() int {
	n := 0
	for _, one := range c.Candidates {
		if !one.OfBudget() {
			n++
		}
	}
	return n
}

func (c *ChangedPolicy) readCandidates(ctx context.Context, tx pgx.Tx, of PolicyOf) error {
	var err error
	if err = tx.QueryRow(ctx, "SELECT tokenalert.now()").Scan(&c.Now); err != nil {
		return err
	}
	if c.Settings, err = scanSettings(tx.QueryRow(ctx, settingsInForce)); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT `+candidateColumns+`
		FROM (SELECT u.user_id, u.period_start, u.period_end, u.tokens_used, u.marks, NULL::timestamptz AS newest
		      FROM tokenalert.accounts() x JOIN tokenalert.usage_periods u ON u.user_id = x.user_id
		      WHERE (x.user_id = $1 OR x.organization_id = $2) AND u.period_start <= tokenalert.now() AND tokenalert.now() < u.period_end) c,
		     `+accountOfCandidate+`
		ORDER BY c.user_id`, of.User, of.Organization)
	if err != nil {
		return err
	}
	if c.Candidates, err = scanCandidates(rows, nil, true, nil); err != nil {
		return err
	}
	if c.After.Budget != nil {
		if err := c.readBudget(ctx, tx, of); err != nil {
			return err
		}
	}
	return c.readRecorded(ctx, tx)
}

// readBudget adds the budget of an organization, and counts its admins.
func (c *ChangedPolicy) readBudget(ctx context.Context, tx pgx.Tx, of PolicyOf) error {
	// Of a budget of which not all is counted, what its rows add up to.
	rows, err := tx.Query(ctx, `
		SELECT `+budgetCandidateColumns+`
		FROM (SELECT b.organization_id, p.period_start, p.period_end, coalesce(u.marks, '{}') AS marks,
		             CASE WHEN b.counted THEN coalesce(u.tokens_used, 0)
		                  ELSE (SELECT coalesce(sum(l.tokens_used), 0) FROM ai_usage_logs l WHERE l.organization_id = b.organization_id
		                        AND l.created_at >= p.period_start AND l.created_at < p.period_end) END AS tokens_used
		      FROM tokenalert.budgets b, LATERAL (
			      SELECT tokenalert.period_start(b.reset_day, b.time_zone, tokenalert.now()) AS period_start,
			             tokenalert.period_end(b.reset_day, b.time_zone, tokenalert.now()) AS period_end
		      ) p LEFT JOIN tokenalert.budget_periods u ON u.organization_id = $1 AND u.period_start = p.period_start
		      WHERE b.organization_id = $1) c,
		     `+budgetOf("true"), of.Organization)
	if err != nil {
		return err
	}
	budget, err := scanCandidates(rows, nil, true, nil)
	if err != nil {
		return err
	}
	c.Candidates = append(c.Candidates, budget...)
	return tx.QueryRow(ctx, `SELECT count(*) FROM tokenalert.admins($1) WHERE NOT muted`, of.Organization).Scan(&c.Admins)
}

// readRecorded finds what the keys of alerts would refuse: as the tick's
// statements do, which leave it to them.
func (c *ChangedPolicy) readRecorded(ctx context.Context, tx pgx.Tx) error {
	var users, organizations []*uuid.UUID
	var starts []time.Time
	var limits []int64
	for i := range c.Candidates {
		one := &c.Candidates[i]
		subject := one.Subject()
		users, organizations = append(users, known(subject.UserID)), append(organizations, known(subject.BudgetOf))
		starts, limits = append(starts, one.PeriodStart), append(limits, one.TokenLimit)
	}
	rows, err := tx.Query(ctx, `
		WITH of AS MATERIALIZED (
			SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[]) WITH ORDINALITY AS c (user_id, organization_id, period_start, token_limit, n)
		)
		SELECT n, a.alert_threshold FROM of, LATERAL (
			SELECT a.alert_threshold FROM token_limit_alerts a
			WHERE (a.user_id, a.period_start, a.token_limit) = (of.user_id, of.period_start, of.token_limit) OFFSET 0
		) a
		UNION ALL
		SELECT n, a.alert_threshold FROM of, LATERAL (
			SELECT a.alert_threshold FROM tokenalert.budget_alerts a
			WHERE (a.organization_id, a.period_start, a.token_limit) = (of.organization_id, of.period_start, of.token_limit) OFFSET 0
		) a`, users, organizations, starts, limits)
	if err != nil {
		return err
	}
	c.Recorded = map[AlertKey]bool{}
	var n int64
	var threshold int32
	_, err = pgx.ForEachRow(rows, []any{&n, &threshold}, func() error {
		c.Recorded[c.Candidates[n-1].Key(threshold)] = true
		return nil
	})
	return err
}

// A BudgetStanding is what has been used of a budget in its current period.
type BudgetStanding struct {
	TokensUsed  int64     `json:"tokens_used"`
	TokenLimit  int64     `json:"token_limit"`
	PeriodStart time.Time `json:"period_start"`
	ResetsAt    time.Time `json:"resets_at"`
	Counted     bool      `json:"counted"` // false: what was used before it was set is being counted
}

// Policies lists those that say something, organizations first.
func (s *Store) Policies(ctx context.Context) ([]Policy, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+policyColumns+` FROM tokenalert.policies WHERE NOT `+saysNothing+` ORDER BY organization_id, user_id`)
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", s.refused(ctx, err))
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Policy])
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", s.refused(ctx, err))
	}
	return list, nil
}

// A PolicyVersion is one change of a policy.
type PolicyVersion struct {
	ChangedAt time.Time      `json:"changed_at"`
	Role      string         `json:"role"`
	Before    map[string]any `json:"before"`
	After     map[string]any `json:"after"`
}

// Policies are the two that may count for a user.
type Policies struct {
	User         *Policy `json:"user"`         // nil: none, or not asked for a user
	Organization *Policy `json:"organization"` // nil: none
}

// Saying is the one that counts among those that say something: the user's before
// the organization's; nil where neither says it.
func (p Policies) Saying(something func(*Policy) bool) *Policy {
	for _, one := range []*Policy{p.User, p.Organization} {
		if one != nil && something(one) {
			return one
		}
	}
	return nil
}

func policiesOf(ctx context.Context, tx pgx.Tx, user, organization *uuid.UUID) (Policies, error) {
	var both Policies
	for _, look := range []struct {
		of PolicyOf
		to **Policy
	}{{PolicyOf{User: user}, &both.User}, {PolicyOf{Organization: organization}, &both.Organization}} {
		p, err := readPolicy(ctx, tx, look.of)
		if err != nil {
			return both, err
		}
		if !p.ChangedAt.IsZero() {
			*look.to = p
		}
	}
	return both, nil
}

// PolicyInForce is what counts for a user, or for who has no policy of their own
// in an organization, and where each comes from.
type PolicyInForce struct {
	Policies
	Settings *Settings       `json:"settings"` // nil where no worker has ever led
	Budget   *BudgetStanding `json:"budget"`   // of the organization that was asked for; nil: it has none
	Changes  []PolicyVersion `json:"changes"`  // of the one that was asked for, the newest first
}

// PolicyInForce returns what counts.
func (s *Store) PolicyInForce(ctx context.Context, of PolicyOf) (PolicyInForce, error) {
	var f PolicyInForce
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := mustExist(ctx, tx, of); err != nil {
			return err
		}
		organization := of.Organization
		if of.User != nil {
			err := tx.QueryRow(ctx, "SELECT organization_id FROM tokenalert.accounts() WHERE user_id = $1", of.User).Scan(&organization)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) { // gone, with a policy that stays
				return err
			}
		}
		var err error
		if f.Policies, err = policiesOf(ctx, tx, of.User, organization); err != nil {
			return err
		}
		if f.Settings, err = scanSettings(tx.QueryRow(ctx, settingsInForce)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT tokens_used, token_limit, period_start, resets_at, counted FROM tokenalert.current_budgets
			WHERE organization_id = $1`, of.Organization)
		if err != nil {
			return err
		}
		f.Budget, err = pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[BudgetStanding])
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT changed_at, role::text, before, after FROM tokenalert.policy_changes
			WHERE user_id = $1 OR organization_id = $2 ORDER BY version DESC`, of.User, of.Organization)
		if err != nil {
			return err
		}
		f.Changes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[PolicyVersion])
		return err
	})
	return f, policyError(of, err)
}
