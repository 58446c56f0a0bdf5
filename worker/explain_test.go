package worker

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/store"
)

// account is a user in the middle of May, whom a worker looks after; changes
// make it what a test is about.
func account(used, limit int64, changes ...func(*store.Account)) store.Account {
	tick := store.TickRow{ID: 7, Kind: store.Window, Worker: "w1", StartedAt: midMay}
	counted := int64(7)
	a := store.Account{
		Now: midMay, UserID: decideUser, FullName: "Ana Pérez", TokenLimit: &limit, LimitIn: "users.monthly_token_limit", ResetDay: 1,
		Settings: &store.Settings{TimeZone: "UTC", Thresholds: []int32{80, 90, 100}, Worker: "w1", ChangedAt: mayBegins},
		Leader:   &store.Leader{Worker: "w1"}, LastTick: &tick, OldestTick: &tick,
		Current:  &store.AccountPeriod{Start: mayBegins, End: mayEnds, TokensUsed: used, RowsAddUpTo: &used, TickID: &counted},
		Previous: &store.AccountPeriod{Start: mayBegins.AddDate(0, -1, 0), End: mayBegins},
	}
	for _, change := range changes {
		change(&a)
	}
	return a
}

// alertOf is a row of May under a limit of 1000; an empty reason means told.
func alertOf(threshold int32, reason Reason, changes ...func(*store.AccountAlert)) func(*store.Account) {
	at, start, end, limit, used, tick := midMay.Add(-time.Hour), mayBegins, mayEnds, int64(1000), int64(threshold)*10, int64(5)
	al := store.AccountAlert{
		Threshold: threshold, Sent: reason == ReasonNone, Reason: string(reason), CreatedAt: &at, PeriodStart: &start, PeriodEnd: &end,
		TokenLimit: &limit, TokensUsed: &used, TickID: &tick,
	}
	if al.Sent {
		al.SentAt = &at
	}
	for _, change := range changes {
		change(&al)
	}
	return func(a *store.Account) { a.Alerts = append(a.Alerts, al) }
}

func marked(marks ...int32) func(*store.Account) {
	return func(a *store.Account) { a.Current.Marks = marks }
}

func pending(p store.Pending) func(*store.Account) {
	return func(a *store.Account) { a.Pending = append(a.Pending, p) }
}

func TestExplainAnswers(t *testing.T) {
	t.Parallel()
	later := midMay.Add(5 * time.Minute)
	noLeader := func(a *store.Account) { a.Leader = nil }
	uncounted := func(tokens int64) func(*store.Account) {
		return func(a *store.Account) {
			a.Uncounted = store.AccountUncounted{Rows: 1, Tokens: tokens, CurrentTokens: tokens}
		}
	}
	tests := []struct {
		name string
		a    store.Account
		want string
	}{
		{"nothing used", account(0, 1000), "Ana Pérez was told of nothing in this period: 0 of 1,000 tokens are 0.0 %; the next threshold is 80 %, 800 tokens away."},
		{"one token below", account(799_999, 1_000_000), "Ana Pérez was told of nothing in this period: 799,999 of 1,000,000 tokens are 79.9 %; the next threshold is 80 %, 1 token away."},
		{"below nothing", account(-50, 1000), "Ana Pérez was told of nothing in this period: -50 of 1,000 tokens are 0.0 %; the next threshold is 80 %, 850 tokens away."},
		{"told", account(850, 1000, marked(80), alertOf(80, "")), "Ana Pérez was told of 80 % on 2026-05-15 11:00:00 UTC; the next threshold is 90 %, 50 tokens away."},
		{"told of the last", account(1000, 1000, marked(100), alertOf(100, "")), "Ana Pérez was told of 100 % on 2026-05-15 11:00:00 UTC; 90 % is reached, and not yet decided: nothing that waits says why (was a trigger switched off when the limit changed?); the user's next row of usage decides it."},
		{"told of all", account(1000, 1000, alertOf(80, ReasonSuperseded), alertOf(90, ReasonSuperseded), alertOf(100, "")), "Ana Pérez was told of 100 % on 2026-05-15 11:00:00 UTC; there is no further threshold."},
		{"muted", account(850, 1000, alertOf(80, "muted")), "Ana Pérez was not told of 80 %: a policy mutes it; the next threshold is 90 %, 50 tokens away."},
		{"a reason of tomorrow", account(850, 1000, alertOf(80, "asleep")), "Ana Pérez was not told of 80 %: asleep; the next threshold is 90 %, 50 tokens away."},
		{"a name that is none", account(0, 1000, func(a *store.Account) { a.FullName = "\u200b\t" }), "User 11111111-2222-4333-8444-555555555555 was told of nothing in this period: 0 of 1,000 tokens are 0.0 %; the next threshold is 80 %, 800 tokens away."},
		{"a name that would paint", account(0, 0, func(a *store.Account) { a.FullName = "Ana\x1b[31m" }), "Ana [31m is told of nothing; there is no limit (users.monthly_token_limit is 0)."},
		{"told under another limit of what is no longer in force", account(500, 2000, alertOf(50, "")), "Ana Pérez was told of 50 % on 2026-05-15 11:00:00 UTC, when the limit was 1,000; the next threshold is 80 %, 1,100 tokens away."},
		{"told in another period", account(0, 1000, alertOf(80, "", func(al *store.AccountAlert) {
			*al.SentAt, *al.PeriodStart, *al.PeriodEnd = mayBegins.Add(-time.Second), mayBegins.AddDate(0, -1, 0), mayBegins
		})), "Ana Pérez was told of nothing in this period: 0 of 1,000 tokens are 0.0 %; the next threshold is 80 %, 800 tokens away."},
		{"about to be counted", account(700, 1000, uncounted(100)), "Ana Pérez has not been told yet; 80 % is about to be reached, at 80.0 %, by what waits to be counted: what has committed since tick 7 is counted at the next."},
		{"told, and more about to be counted", account(850, 1000, alertOf(80, ""), uncounted(50)), "Ana Pérez was told of 80 % on 2026-05-15 11:00:00 UTC; 90 % is about to be reached, at 90.0 %, by what waits to be counted: what has committed since tick 7 is counted at the next."},
		{"not enough to be told", account(700, 1000, uncounted(99)), "Ana Pérez was told of nothing in this period: 700 of 1,000 tokens are 70.0 %; the next threshold is 80 %, 100 tokens away."},
		{"nobody leads", account(850, 1000, noLeader), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: nobody leads, so start `tokenalert run`."},
		{"an empty chain", account(850, 1000, func(a *store.Account) { a.LastTick, a.OldestTick = nil, nil }), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: the chain of ticks is empty, and the next tick counts everything."},
		{"another cluster's chain", account(850, 1000, func(a *store.Account) { a.OtherCluster = true }), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: the chain of ticks is another cluster's, so run `tokenalert migrate up`."},
		{"a standby knows no leader", account(850, 1000, noLeader, func(a *store.Account) { a.Standby = true }, pending(store.Pending{Cause: "limit_changed", Due: true, Rows: 1})), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: a correction is about to be dealt with (the limit was changed)."},
		{"set aside comes before others", account(850, 1000, pending(store.Pending{Cause: "limit_changed", Due: true}), pending(store.Pending{Cause: "set_aside", DueAt: &later})), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: the data of this user made a statement fail, as the worker's log says (user.set_aside); the user is tried again after 2026-05-15 12:05:00 UTC."},
		{"everybody comes before all", account(850, 1000, pending(store.Pending{Cause: "set_aside", DueAt: &later}), pending(store.Pending{Cause: "usage_truncated", Everybody: true, Counts: true, Due: true})), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: everybody is about to be counted anew (ai_usage_logs was truncated)."},
		{"what is not yet due explains nothing", account(850, 1000, pending(store.Pending{Cause: "period_begins", Counts: true, DueAt: &later})), "Ana Pérez has not been told yet; 80 % is reached, and not yet decided: nothing that waits says why (was a trigger switched off when the limit changed?); the user's next row of usage decides it."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, Explain(tt.a).Answer)
		})
	}
}

func TestExplainReasons(t *testing.T) {
	t.Parallel()
	const at = "recorded on 2026-05-15 11:00:00 UTC at 80.0 %, 800 of 1,000 tokens, not told: "
	otherTick := func(al *store.AccountAlert) { *al.TickID = 6 }
	host := func(al *store.AccountAlert) {
		al.PeriodStart, al.PeriodEnd, al.TokenLimit, al.TokensUsed, al.TickID = nil, nil, nil, nil, nil
	}
	april := func(al *store.AccountAlert) { *al.PeriodStart = mayBegins.AddDate(0, -1, 14) }
	aprilsHost := func(al *store.AccountAlert) { host(al); *al.SentAt = mayBegins.Add(-time.Hour) }
	for name, tt := range map[string]struct {
		alerts []func(*store.Account)
		want   string // of the threshold of 80
	}{
		"superseded":                      {[]func(*store.Account){alertOf(80, ReasonSuperseded), alertOf(100, "")}, at + "100 % was reached at once and told instead"},
		"superseded by an earlier tick's": {[]func(*store.Account){alertOf(80, ReasonSuperseded), alertOf(100, "", otherTick)}, at + "a higher threshold was told instead, or had been dealt with"},
		"superseded by one untold":        {[]func(*store.Account){alertOf(80, ReasonSuperseded), alertOf(90, ReasonBackfill)}, at + "a higher threshold was told instead, or had been dealt with"},
		"period closed":                   {[]func(*store.Account){alertOf(80, ReasonPeriodClosed)}, at + "what reached it was counted when the period had ended"},
		"threshold added":                 {[]func(*store.Account){alertOf(80, ReasonThresholdAdded)}, at + "the settings, or a policy, gained this threshold while usage stood above it already"},
		"carried over from the host":      {[]func(*store.Account){alertOf(80, ReasonCarriedOver), alertOf(80, "", host)}, at + "the host itself had told it on 2026-05-15 11:00:00 UTC"},
		"carried over from another day":   {[]func(*store.Account){alertOf(80, ReasonCarriedOver), alertOf(80, "", april)}, at + "it had been told on 2026-05-15 11:00:00 UTC, before the reset day or the zone changed"},
		"carried over from what is gone":  {[]func(*store.Account){alertOf(80, ReasonCarriedOver), alertOf(80, "", aprilsHost)}, at + "it had been told within this period already, before the reset day, the zone or the worker changed"},
		"backfill":                        {[]func(*store.Account){alertOf(80, ReasonBackfill)}, at + "usage stood above it at the very first count, and TOKENALERT_BACKFILL was record"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, Explain(account(800, 1000, tt.alerts...)).Current[0].Sentence)
		})
	}
	// Every reason that a row may hold has words.
	for _, r := range []Reason{ReasonSuperseded, ReasonPeriodClosed, ReasonThresholdAdded, ReasonCarriedOver, ReasonBackfill, ReasonAlreadyTold, ReasonMuted, ReasonNone} {
		assert.NotEqual(t, string(r), r.Words())
	}
}

func TestExplainNotes(t *testing.T) {
	t.Parallel()
	later := midMay.Add(time.Minute)
	for name, tt := range map[string]struct {
		change func(*store.Account)
		want   []string
	}{
		"nothing":         {func(*store.Account) {}, nil},
		"nobody leads":    {func(a *store.Account) { a.Leader = nil }, []string{"Nobody leads"}},
		"a standby":       {func(a *store.Account) { a.Leader, a.Standby = nil, true }, []string{"This is a standby"}},
		"another cluster": {func(a *store.Account) { a.OtherCluster, a.Current.RowsAddUpTo = true, new(int64(5)) }, []string{"The chain of ticks was written in another cluster"}},
		"an empty chain":  {func(a *store.Account) { a.LastTick, a.Current.RowsAddUpTo = nil, nil }, []string{"The chain of ticks is empty"}},
		"a difference":    {func(a *store.Account) { *a.Current.RowsAddUpTo = 1234 }, []string{"The total is 700, and the rows that are counted add up to 1,234; `tokenalert reconcile`"}},
		"a difference that a decision does not explain": {func(a *store.Account) {
			*a.Current.RowsAddUpTo = 1234
			pending(store.Pending{Cause: "limit_changed", Due: true, Rows: 1})(a)
		}, []string{"The total is 700", "The user is to be decided anew at the next tick: the limit was changed."}},
		"a difference that a count explains": {func(a *store.Account) {
			*a.Current.RowsAddUpTo = 1234
			pending(store.Pending{Cause: "usage_deleted", Counts: true, Due: true, Rows: 1200})(a)
		}, []string{"The user is to be counted anew at the next tick: rows of usage were deleted (1,200 corrections)."}},
		"a difference that a later count does not explain": {func(a *store.Account) {
			*a.Current.RowsAddUpTo = 1234
			pending(store.Pending{Cause: "period_begins", Counts: true, DueAt: &later, Rows: 1})(a)
		}, []string{"The total is 700", "The user is to be looked at after 2026-05-15 12:01:00 UTC"}},
		"a cause of tomorrow": {pending(store.Pending{Cause: "by_hand", Due: true, Rows: 1}), []string{"The user is to be decided anew at the next tick: by_hand."}},
		"rows":                {func(a *store.Account) { a.Uncounted = store.AccountUncounted{Rows: 2, Tokens: 1}; a.Unusable = 1 }, []string{"Not yet counted: 1 token in 2 rows.", "Never counted: 1 row whose"}},
		"told":                {alertOf(80, ""), []string{"A threshold is told once"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notes := Explain(account(700, 1000, tt.change)).Notes
			require.Len(t, notes, len(tt.want), "%q", notes)
			for i, want := range tt.want {
				assert.True(t, strings.HasPrefix(notes[i], want), "%q", notes[i])
			}
		})
	}
}

func TestExplainWithoutSettings(t *testing.T) {
	t.Parallel()
	e := Explain(account(0, 1000, func(a *store.Account) {
		a.Settings, a.Current, a.Previous, a.LastTick, a.OldestTick, a.Leader = nil, nil, nil, nil, nil, nil
	}))
	assert.Equal(t, "Ana Pérez was told of nothing by tokenalert: no worker has ever led on this database, so nothing is counted; start `tokenalert run`.", e.Answer)
	assert.Equal(t, []ThresholdVerdict{}, e.Current)
	assert.Len(t, e.Notes, 1)
}

func TestMissing(t *testing.T) {
	t.Parallel()
	const most = math.MaxInt64
	for _, tt := range []struct {
		used, limit int64
		threshold   int32
		want        int64
	}{
		{0, 1000, 80, 800},
		{799, 1000, 80, 1},
		{2, 3, 80, 1}, // 2.4 tokens are 80 %
		{0, 1, 1, 1},
		{0, most, 100, most},
		{math.MinInt64, most, 100, most},
		{0, most, 1000, most},
	} {
		assert.Equal(t, tt.want, missing(tt.used, tt.limit, tt.threshold), "%+v", tt)
		if n := missing(tt.used, tt.limit, tt.threshold); tt.used >= 0 && n < most {
			assert.True(t, reached(tt.used+n, tt.limit, tt.threshold), "%+v", tt)
			assert.False(t, reached(tt.used+n-1, tt.limit, tt.threshold), "%+v", tt)
		}
	}
}

func TestCountedByInWords(t *testing.T) {
	t.Parallel()
	first := &store.TickRow{ID: 1, Kind: store.First, Worker: "w1", StartedAt: mayBegins}
	for name, tt := range map[string]struct {
		row  store.AccountRow
		a    store.Account
		want string
	}{
		"a tick":           {store.AccountRow{CountedBy: store.CountedByTick, Tick: first}, account(0, 0), "tick 1 (first, 2026-05-01 00:00:00 UTC, by w1)"},
		"pruned":           {store.AccountRow{CountedBy: store.CountedEarlier, Tick: first}, account(0, 0), "tick 1 (2026-05-01 00:00:00 UTC), or one before it that is no longer kept"},
		"in full":          {store.AccountRow{CountedBy: store.CountedInFull, Tick: first}, account(0, 0), "tick 1 (first, 2026-05-01 00:00:00 UTC), as a row older than the chain"},
		"in full, pruned":  {store.AccountRow{CountedBy: store.CountedInFull}, account(0, 0), "the full count that began the chain, which the row is older than"},
		"not known":        {store.AccountRow{CountedBy: store.CountedNotKnown}, account(0, 0), "not to be known: the chain is another cluster's"},
		"not yet":          {store.AccountRow{CountedBy: store.CountedNotYet}, account(0, 0), "not yet: it committed after tick 7"},
		"nobody to do it":  {store.AccountRow{CountedBy: store.CountedNotYet}, account(0, 0, func(a *store.Account) { a.Leader = nil }), "not yet: nobody leads, so start `tokenalert run`"},
		"nothing to go on": {store.AccountRow{CountedBy: store.CountedNotYet}, account(0, 0, func(a *store.Account) { a.LastTick = nil }), "not yet: the chain of ticks is empty, and the next tick counts everything"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.want, CountedBy(tt.a, tt.row))
		})
	}
}
