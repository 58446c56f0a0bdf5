package worker_test

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
	"tokenalert/worker"
)

// Whatever users call themselves, they are told, in plain text that keeps what
// people write and nothing of what programs act upon.
func TestNamesThatNobodyExpects(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name     string
		greeting string
	}{
		"emoji":                 {"Ana 👩‍👩‍👧 🇨🇱", "Hola, Ana 👩‍👩‍👧 🇨🇱:"},
		"Arabic":                {"محمد عبد الله", "Hola, محمد عبد الله:"},
		"Hebrew, turned around": {"\u202eדוד\u202c \u2066x\u2069", "Hola, דוד x:"},
		"a template of the host": {
			"{{recipient_name}} {{.}} ${HOME} %s %d%% %!v(PANIC) \\n $1", "Hola, {{recipient_name}} {{.}} ${HOME} %s %d%% %!v(PANIC) \\n $1:",
		},
		"SQL":                   {"Robert'); DROP TABLE users;--", "Hola, Robert'); DROP TABLE users;--:"},
		"markup":                {"<script>alert(1)</script>", "Hola, <script>alert(1)</script>:"},
		"control characters":    {"a\x01b\x1b[2Jc\x7fd\u0085e", "Hola, a b [2Jc d e:"},
		"like a NUL":            {"a\u2400b\\0c", "Hola, a\u2400b\\0c:"},
		"lines":                 {"Ana\r\nSubject: spam\u2028\t  ", "Hola, Ana Subject: spam:"},
		"nothing to see":        {" \u200b\u200d\ufeff\u00a0 ", "Hola:"},
		"a megabyte":            {strings.Repeat("x", 1<<20), "Hola, " + strings.Repeat("x", 99) + "…:"},
		"a megabyte of emoji":   {strings.Repeat("👩‍👧", 100_000), "Hola, 👩‍👧"},
		"a megabyte of nothing": {strings.Repeat("\u200b", 1<<18), "Hola:"},
		"many marks":            {"e" + strings.Repeat("\u0301", 5000), "Hola, e\u0301"},
	}
	w := newWorld(t)
	r := w.start()
	users := map[string]uuid.UUID{}
	for name, tt := range tests {
		users[name] = w.newUser(host.User{Limit: new(1000), FullName: tt.name, Email: strings.ToValidUTF8(tt.name[:min(len(tt.name), 20)], "") + name})
		w.use(users[name], 957)
	}
	w.settle()
	for name, tt := range tests {
		w.assertToldOnce(users[name], 80, 90)
		told := w.notifications(users[name])
		require.Len(t, told, 1, name)
		assert.Equal(t, "⚡ 90% de tokens de IA utilizados", told[0].Title)
		message := told[0].Message
		assert.True(t, strings.HasPrefix(message, tt.greeting), "%s: %q", name, message)
		assert.Contains(t, message, " 957 tokens de IA en este período, el 95,7% de tu límite de 1.000.", name)
		assert.Less(t, utf8.RuneCountInString(message), 400, name)
		assert.False(t, strings.ContainsFunc(message, func(r rune) bool {
			return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) && r != '\u200d'
		}), "%s: %q", name, message)
	}
	assert.Empty(t, r.lines(worker.EventTickFailed))
	assert.Empty(t, r.lines(worker.EventUserSetAside))
	for _, line := range r.logs.All() {
		assert.NotContains(t, line.Message, "Ana")
	}
}

// A host whose columns are wider than ours expects to be.
func TestCountsAtTheEndsOfABigint(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Host(host.CMS))
	w := worldOn(t, db)
	for _, sql := range []string{
		"DROP VIEW ai_usage_daily, ai_usage_monthly",
		"ALTER TABLE ai_usage_logs ALTER COLUMN tokens_used TYPE bigint",
		"ALTER TABLE users ALTER COLUMN monthly_token_limit TYPE bigint",
	} {
		w.ownerExec(sql)
	}
	m, err := store.NewMigrator(db.OwnerURL())
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, m.Up(t.Context()))
	require.NoError(t, m.Grant(t.Context(), pgtest.Runtime))

	const most, least = math.MaxInt64, math.MinInt64
	tests := map[string]struct {
		limit   int64
		tokens  []int64
		told    []int
		used    int64 // as the alerts have it
		percent float64
	}{
		"a limit of one":              {1, []int64{1}, []int{100}, 1, 100},
		"a limit of one, and nothing": {1, []int64{0, 0}, nil, 0, 0},
		"a limit of one, owed":        {1, []int64{-1, 1}, nil, 0, 0},
		"below by one":                {math.MaxInt32, []int64{1717986916, 1}, nil, 0, 0}, // 80 % is 1717986917.6
		"at 80 % of an integer":       {math.MaxInt32, []int64{1717986917, 1}, []int{80}, 1717986918, 80},
		"past an integer":             {math.MaxInt32, []int64{math.MaxInt32, math.MaxInt32, math.MaxInt32}, []int{100}, 3 * math.MaxInt32, 300},
		"all of a bigint":             {most, []int64{most}, []int{100}, most, 100},
		"nearly all of a bigint":      {most, []int64{most - 1}, []int{90}, most - 1, 99.9},
		"past a bigint":               {most, []int64{most, most, most}, []int{100}, most, 100},
		"past a bigint, of one":       {1, []int64{most, most}, []int{100}, most, float64(most) / 10},
		"below a bigint":              {most, []int64{least, least, least}, nil, 0, 0},
		"past a bigint and back":      {1000, []int64{most, most, least, least, 852}, []int{80}, 850, 85},
		"less than nothing":           {1000, []int64{-5000, 5850}, []int{80}, 850, 85},
	}
	users := map[string]uuid.UUID{}
	for name, tt := range tests {
		users[name] = w.newUser(host.User{})
		w.ownerExec("UPDATE users SET monthly_token_limit = $1 WHERE id = $2", tt.limit, users[name])
	}
	r := w.start()
	r.asleep()
	for name, tt := range tests {
		// In one transaction: what is crossed on the way is nobody's business.
		w.ownerExec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, unnest($3::bigint[])", users[name], w.org, tt.tokens)
	}
	w.settle()
	for name, tt := range tests {
		assert.Equal(t, append([]int{}, tt.told...), w.told(users[name]), name)
		for _, a := range w.alerts(users[name]) {
			assert.Equal(t, tt.used, a.TokensUsed, name)
			assert.Equal(t, tt.limit, a.TokenLimit, name)
			assert.InEpsilon(t, tt.percent, a.Percent, 1e-12, name)
		}
	}
	w.assertTotals()
	assert.Empty(t, r.lines(worker.EventTickFailed))
	assert.Empty(t, r.lines(worker.EventUserSetAside))
	found, err := worker.Reconcile(t.Context(), w.store, func(store.Progress) {}, func(error) {})
	require.NoError(t, err)
	assert.Empty(t, found.Differences)
	for name, user := range users {
		account, err := w.store.Explain(t.Context(), user.String())
		require.NoError(t, err, name)
		assert.NotEmpty(t, worker.Explain(account).Answer, name)
	}
	status, err := w.store.Status(t.Context(), 100)
	require.NoError(t, err)
	assert.Len(t, status.Users, len(tests))
}

// Rows whose data fails cost themselves an alert, with a line and a count;
// everybody else is told, and they are once their data is good.
func TestPoisonStopsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var poison, good []uuid.UUID
	for range 3 {
		poison = append(poison, w.newUser(host.User{Limit: new(1000), FullName: "Poison"}))
	}
	for range 20 {
		good = append(good, w.user(1000))
	}
	// The host's trigger does arithmetic on what it finds in the message.
	w.ownerExec(`CREATE FUNCTION digest() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.message LIKE '%Poison%' THEN PERFORM 1 / 0; END IF;
			RETURN NEW;
		END $$`)
	w.ownerExec("CREATE TRIGGER digest BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION digest()")
	r := w.start()
	r.asleep()
	w.ownerExec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT id, organization_id, 950 FROM users")
	w.eventually(func() bool { return len(r.lines(worker.EventUserSetAside)) >= len(poison) }, "nobody is set aside")
	w.settle()
	for _, user := range good {
		w.assertToldOnce(user, 80, 90)
	}
	// Others cross while they are set aside, at once and without a failure more.
	failures := len(r.lines(worker.EventTickFailed))
	w.use(good[0], 100)
	for _, user := range poison {
		w.use(user, 1)
	}
	w.settle()
	assert.Equal(t, []int{90, 100}, w.told(good[0]))
	assert.Len(t, r.lines(worker.EventTickFailed), failures)
	assert.Len(t, r.lines(worker.EventUserSetAside), len(poison))
	for _, line := range r.lines(worker.EventUserSetAside) {
		assert.Equal(t, "22012", line.ContextMap()["sqlstate"])
	}
	for _, user := range poison {
		assert.Empty(t, w.alerts(user))
		assert.EqualValues(t, 951, w.total(user))
	}
	w.ownerExec("DROP TRIGGER digest ON notifications")
	w.db.SetNow(t, time.Now().Add(store.SetAsideRetry+time.Second))
	w.eventually(func() bool { return len(w.notifications(poison[2])) > 0 && len(w.notifications(poison[0])) > 0 }, "not told once the data is good")
	for _, user := range poison {
		w.assertToldOnce(user, 80, 90)
	}
}

// Whoever was set aside is tried when a correction asks for it, as the doctor has
// the owner do once the data is good, and need not use anything for it.
func TestWhoIsSetAsideIsTriedWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	poison, good := w.user(1000), w.user(1000)
	w.ownerExec("ALTER TABLE notifications ADD CONSTRAINT refuse CHECK (user_id <> '" + poison.String() + "')")
	r := w.start()
	r.asleep()
	w.use(poison, 950)
	r.await(worker.EventUserSetAside)
	w.ownerExec("ALTER TABLE notifications DROP CONSTRAINT refuse")
	w.ownerExec("UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside'")
	w.use(good, 1) // which wakes the worker
	w.eventually(func() bool { return len(w.notifications(poison)) > 0 }, "not told")
	w.assertToldOnce(poison, 80, 90)
}

// So is a budget, and where its periods begin otherwise meanwhile, it is decided in
// the one that goes on.
func TestABudgetThatIsSetAsideIsTriedWhenAsked(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(w *world){
		"by the owner": func(w *world) {
			w.ownerExec("UPDATE tokenalert.recounts SET due_at = NULL WHERE cause = 'set_aside'")
		},
		"by another calendar": func(w *world) {
			day := time.Now().UTC().AddDate(0, 0, -1).Day()
			w.ownerExec("UPDATE tokenalert.policies SET budget_reset_day = $1", day)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			admin := w.admin(w.org)
			w.ownerExec("ALTER TABLE notifications ADD CONSTRAINT refuse CHECK (user_id <> '" + admin.String() + "')")
			r := w.start()
			w.policy(ofOrganization, "budget", w.org, 1000)
			w.eventually(func() bool { return w.budgetCounted(w.org) }, "the budget is not counted")
			w.use(w.user(0), 850)
			r.await(worker.EventUserSetAside)
			w.ownerExec("ALTER TABLE notifications DROP CONSTRAINT refuse")
			ask(w)
			w.use(w.user(0), 1) // which wakes the worker
			w.eventually(func() bool { return len(w.notifications(admin)) > 0 }, "not told")
			w.settle()
			assert.Len(t, w.notifications(admin), 1)
			assert.Len(t, w.budgetAlerts(w.org), 1)
		})
	}
}
