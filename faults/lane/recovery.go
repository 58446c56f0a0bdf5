package lane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/plan"
)

// defaultSettings are those of a worker that was told nothing, but for its log.
var defaultSettings = []string{"TOKENALERT_LOG_LEVEL=debug", "TOKENALERT_LOG_FORMAT=json"}

// How a recovery is watched.
const (
	recoveryUsers = 30_000
	recoverWithin = time.Minute
	// anyMoment is what the pings of a leader, the attempts of a follower and the
	// pauses between connects repeat within: faults come, and end, at any point of it.
	anyMoment = 3 * time.Second
)

// recovery is a host whose users cross their limit one after the other, each by
// one row, and somebody who sees when each is told.
type recovery struct {
	*site
	ids []uuid.UUID

	mu        sync.Mutex
	committed map[uuid.UUID]time.Time
	told      map[uuid.UUID]time.Time
}

// Between users who cross, while a recovery is watched: so often that the leader
// never sleeps, or so seldom that it sleeps in between.
const (
	Awake  = 10 * time.Millisecond
	Asleep = 1500 * time.Millisecond
)

// Recover has a fault happen to a leader, under the default settings and while
// users go on crossing their limits, one every so often, and returns how long a
// user who crossed from then on waited at most: each time. PostgreSQL stopped counts from when it
// accepts connections again. That somebody was told twice is an error.
func (l *Lane) Recover(ctx context.Context, kind plan.FaultKind, every time.Duration, times int, said func(time.Duration)) ([]time.Duration, error) {
	p := &plan.Plan{Workers: 2, Bell: true, Zone: "UTC"}
	s := &site{
		lane: l, plan: p, database: fmt.Sprintf("recovery_%d", l.schedules.Add(1)), directory: l.directory(0) + "-" + string(kind),
		settings: slices.Concat(l.o.Settings, defaultSettings),
	}
	s.result.Landed = map[plan.FaultKind]Landing{}
	defer s.close()
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("recovery from %s: %w", kind, err)
	}
	r := &recovery{site: s, committed: map[uuid.UUID]time.Time{}, told: map[uuid.UUID]time.Time{}}
	if err := r.populate(ctx); err != nil {
		return nil, fmt.Errorf("recovery from %s: %w", kind, err)
	}
	going, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { r.write(going, every) })
	all.Go(func() { r.watch(going) })
	defer all.Wait()
	defer stop()
	var took []time.Duration
	for range times {
		d, err := r.measure(ctx, kind)
		if err != nil {
			return took, fmt.Errorf("recovery from %s: %w", kind, err)
		}
		took = append(took, d)
		said(d)
	}
	return took, r.once(ctx)
}

// once looks whether anybody was told more than once.
func (r *recovery) once(ctx context.Context) error {
	var told, notifications int
	err := r.control.QueryRow(ctx, "SELECT count(DISTINCT user_id), count(*) FROM notifications").Scan(&told, &notifications)
	if err == nil && told != notifications {
		err = fmt.Errorf("%d users have %d notifications", told, notifications)
	}
	return err
}

func (r *recovery) populate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.ownerURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		`INSERT INTO organizations (name) VALUES ('Example')`,
		fmt.Sprintf(`INSERT INTO users (organization_id, email, password_hash, full_name, monthly_token_limit)
			SELECT o.id, n || '@example.org', 'none', 'Ada Example', 100 FROM organizations o, generate_series(1, %d) AS n`, recoveryUsers),
		`CREATE FUNCTION public.say_told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('told', NEW.user_id::text); RETURN NULL; END $$`,
		`CREATE TRIGGER say_told AFTER INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION public.say_told()`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	rows, err := conn.Query(ctx, "SELECT id FROM users")
	if err != nil {
		return err
	}
	r.ids, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	return err
}

// write has one user after the other cross.
func (r *recovery) write(ctx context.Context, every time.Duration) {
	w := &writer{site: r.site}
	for _, id := range r.ids {
		if !pause(ctx, every) {
			return
		}
		conn, err := w.session(ctx)
		if err != nil {
			return
		}
		_, err = conn.Exec(ctx, `INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used)
			SELECT id, organization_id, 95 FROM users WHERE id = $1`, id)
		if err == nil {
			r.mu.Lock()
			r.committed[id] = time.Now()
			r.mu.Unlock()
		}
	}
}

// watch notes when it hears that somebody was told.
func (r *recovery) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.listen(ctx); err != nil {
			pause(ctx, 5*time.Millisecond)
		}
	}
}

func (r *recovery) listen(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "LISTEN told"); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, "SELECT user_id FROM notifications") // what was told before we listened
	if err != nil {
		return err
	}
	before, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return err
	}
	for _, id := range before {
		r.see(id)
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if id, err := uuid.Parse(n.Payload); err == nil {
			r.see(id)
		}
	}
}

func (r *recovery) see(id uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.told[id]; !known {
		r.told[id] = time.Now()
	}
}

func (r *recovery) measure(ctx context.Context, kind plan.FaultKind) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, recoverWithin, errors.New("nobody was told again"))
	defer cancel()
	if err := r.until(ctx, func() bool { return r.steady(ctx) }); err != nil {
		return 0, err
	}
	pause(ctx, rand.N(anyMoment))
	victim := r.victim(ctx, plan.Fault{})
	name := victim.name()
	tick, err := r.lastTick(ctx, "")
	if err != nil {
		return 0, err
	}
	from := time.Now()
	mend, err := r.inject(ctx, plan.Fault{Kind: kind}, victim, nil)
	if err != nil {
		return 0, err
	}
	if kind == plan.Crash {
		pause(ctx, rand.N(anyMoment))
		if err := mend(); err != nil {
			return 0, err
		}
		from, name = time.Now(), ""
	}
	if err := r.until(ctx, func() bool { n, err := r.lastTick(ctx, name); return err == nil && n > tick }); err != nil {
		return 0, err
	}
	to := time.Now()
	var took time.Duration
	if err := r.until(ctx, func() bool { took, err = r.longest(from, to); return err == nil }); err != nil {
		return 0, err
	}
	if kind != plan.Crash {
		if err := mend(); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// longest is how long at most somebody waited who crossed by to and had not been
// told at from.
func (r *recovery) longest(from, to time.Time) (time.Duration, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest time.Duration
	for id, committed := range r.committed {
		if committed.After(to) {
			continue
		}
		told, ok := r.told[id]
		if !ok {
			return 0, errors.New("not all have been told")
		}
		if told.After(from) {
			if committed.Before(from) {
				committed = from
			}
			longest = max(longest, told.Sub(committed))
		}
	}
	return longest, nil
}

// lastTick is the newest tick that told somebody and is of another worker than
// the one named.
func (r *recovery) lastTick(ctx context.Context, but string) (int64, error) {
	var id int64
	err := r.control.QueryRow(ctx, `SELECT coalesce(max(t.id), 0) FROM tokenalert.ticks t WHERE t.worker <> $1
		AND EXISTS (SELECT FROM token_limit_alerts a WHERE a.tick_id = t.id)`, but).Scan(&id)
	return id, err
}

// steady reports whether one leads, another waits, everybody was told, and
// nothing is left of the corrections that so many new users bring.
func (r *recovery) steady(ctx context.Context) bool {
	var sessions, leaders int
	var corrections bool
	err := r.control.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE application_name LIKE 'tokenalert lead 2%'),
		EXISTS (SELECT FROM tokenalert.recounts) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'tokenalert lead%'`).Scan(&sessions, &leaders, &corrections)
	if err != nil || sessions != r.plan.Workers || leaders != 1 || corrections {
		return false
	}
	_, err = r.longest(time.Now(), time.Now().Add(-100*time.Millisecond)) // nobody waits who crossed before
	return err == nil
}

func (r *recovery) until(ctx context.Context, is func() bool) error {
	for !is() {
		if !pause(ctx, 2*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}
