package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
)

// A writer is one of the host's sessions, and the account that it keeps.
type writer struct {
	*site
	n    int
	conn *pgx.Conn // nil: to be opened

	beside sync.WaitGroup // transactions that stay open while it goes on
	// committing makes the order of commits that of the numbers that they take.
	committing *sync.Mutex
	mu         sync.Mutex
	rows       []oracle.Row // that it may correct: of its own users, current
}

// errGivenUp means that the schedule is over.
var errGivenUp = errors.New("the schedule is over")

// connect opens a session of the host's, as soon as there is one to be had.
func (w *writer) connect(ctx context.Context) (*pgx.Conn, error) {
	for {
		conn, err := pgx.Connect(ctx, w.ownerURL)
		if err == nil {
			_, err = conn.Exec(ctx, "SET lock_timeout = '500ms'; SET statement_timeout = '4s'", pgx.QueryExecModeSimpleProtocol)
			if err == nil {
				return conn, nil
			}
			_ = conn.Close(ctx) // the error says more
		}
		if !pause(ctx, 20*time.Millisecond) {
			return nil, errGivenUp
		}
	}
}

// session is the writer's own.
func (w *writer) session(ctx context.Context) (*pgx.Conn, error) {
	if w.conn != nil && !w.conn.IsClosed() {
		return w.conn, nil
	}
	var err error
	w.conn, err = w.connect(ctx)
	return w.conn, err
}

// transact does work in a transaction and commits it. Where it fails, nothing
// has happened, and the trace says why.
func (w *writer) transact(ctx context.Context, kind plan.OpKind, work func(pgx.Tx, *oracle.Change) error) bool {
	conn, err := w.session(ctx)
	if err != nil {
		return false
	}
	var change oracle.Change
	tx, err := conn.Begin(ctx)
	if err == nil {
		err = work(tx, &change)
	}
	if err != nil {
		w.trace("op", "writer", w.n, "kind", kind, "outcome", "failed", "error", err.Error())
		if tx != nil {
			_ = tx.Rollback(ctx) // it has failed
		}
		return false
	}
	return w.commit(ctx, tx, kind, &change)
}

// commit numbers the change, commits it, and notes it if it has committed.
func (w *writer) commit(ctx context.Context, tx pgx.Tx, kind plan.OpKind, change *oracle.Change) bool {
	w.committing.Lock()
	defer w.committing.Unlock()
	id := uuid.New()
	err := tx.QueryRow(ctx, "INSERT INTO transactions (id) VALUES ($1) RETURNING nextval('transaction_order')", id).Scan(&change.Order)
	if err != nil {
		_ = tx.Rollback(ctx) // it has failed
		w.trace("op", "writer", w.n, "kind", kind, "outcome", "failed", "error", err.Error())
		return false
	}
	if err := tx.Commit(ctx); err != nil {
		committed := w.hasCommitted(ctx, id)
		w.trace("op", "writer", w.n, "kind", kind, "outcome", "asked", "committed", committed, "error", err.Error())
		if !committed {
			return false
		}
	}
	w.note(kind, *change)
	return true
}

// hasCommitted asks what became of a transaction whose COMMIT was not answered,
// and which no session can still be in: the server ended it.
func (s *site) hasCommitted(ctx context.Context, id uuid.UUID) bool {
	return s.answer(ctx, "SELECT EXISTS (SELECT FROM transactions WHERE id = $1)", id)
}

// answer asks until the server answers: what became of a transaction must be
// known.
func (s *site) answer(ctx context.Context, sql string, arg any) bool {
	for {
		var yes bool
		err := s.control.QueryRow(ctx, sql, arg).Scan(&yes)
		if err == nil {
			return yes
		}
		if !pause(ctx, 10*time.Millisecond) {
			s.fail(fmt.Errorf("what became of transaction %v is not known: %w", arg, err))
			return false
		}
	}
}

// note keeps what has committed.
func (w *writer) note(kind plan.OpKind, change oracle.Change) {
	w.trace("op", "writer", w.n, "kind", kind, "outcome", "committed", "order", change.Order, "rows", len(change.Insert))
	w.mu.Lock()
	for _, r := range change.Insert {
		if w.owns(r.User) && !r.At.Before(w.correctable(r.User)) {
			w.rows = append(w.rows, r)
		}
	}
	for _, r := range change.Update {
		w.rows = slices.DeleteFunc(w.rows, func(o oracle.Row) bool { return o.ID == r.ID })
		w.rows = append(w.rows, r)
	}
	w.rows = slices.DeleteFunc(w.rows, func(r oracle.Row) bool {
		return slices.Contains(change.Delete, r.ID) || slices.Contains(change.Gone, r.User)
	})
	w.mu.Unlock()
	if change.Truncate {
		for _, other := range w.writers {
			other.mu.Lock()
			other.rows = nil
			other.mu.Unlock()
		}
	}
	w.site.note(change)
}

// insert writes rows of users who are still there, as the plan says.
func (w *writer) insert(ctx context.Context, tx pgx.Tx, change *oracle.Change, rows []plan.Row) error {
	var ids, users, orgs []uuid.UUID
	var tokens []int64
	var at []time.Time
	for _, r := range w.place(rows) {
		ids, users, orgs = append(ids, r.ID), append(users, r.User), append(orgs, r.Organization)
		tokens, at = append(tokens, r.Tokens), append(at, r.At)
		change.Insert = append(change.Insert, r)
	}
	_, err := tx.Exec(ctx, `INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
		SELECT id, u, o, t, t, 0, at FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::timestamptz[]) AS r (id, u, o, t, at)`,
		ids, users, orgs, tokens, at)
	return err
}

func (w *writer) copy(ctx context.Context, tx pgx.Tx, change *oracle.Change, rows []plan.Row) error {
	placed := w.place(rows)
	change.Insert = append(change.Insert, placed...)
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"ai_usage_logs"},
		[]string{"id", "user_id", "organization_id", "tokens_used", "input_tokens", "output_tokens", "created_at"},
		pgx.CopyFromSlice(len(placed), func(i int) ([]any, error) {
			r := placed[i]
			return []any{r.ID, r.User, r.Organization, r.Tokens, r.Tokens, 0, r.At}, nil
		}))
	return err
}

// call logs one row as the host does, where the clock is the machine's.
func (w *writer) call(ctx context.Context, tx pgx.Tx, change *oracle.Change, rows []plan.Row) error {
	if w.ahead != 0 {
		return w.insert(ctx, tx, change, rows)
	}
	for _, r := range w.place(rows) {
		err := tx.QueryRow(ctx, `SELECT log_ai_usage($1, $2, $3, $3, 0, '/api/chat', 'example-model', 'chat', '{}', 'What is a token?', 'A piece of a word.')`,
			r.User, r.Organization, r.Tokens).Scan(&r.ID)
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT created_at FROM ai_usage_logs WHERE id = $1", r.ID).Scan(&r.At); err != nil {
			return err
		}
		change.Insert = append(change.Insert, r)
	}
	return nil
}

// place gives planned rows an id and an instant.
func (w *writer) place(rows []plan.Row) []oracle.Row {
	var placed []oracle.Row
	now := w.now()
	for _, r := range rows {
		id := w.users[r.User]
		u, there := w.user(id)
		if !there {
			continue
		}
		at := now
		switch r.Age {
		case plan.Previous:
			at = oracle.PeriodStart(u.ResetDay, w.zone, now).Add(-time.Duration(1+r.Tokens) * 20 * time.Hour)
		case plan.Next:
			at = oracle.PeriodEnd(u.ResetDay, w.zone, now).Add(time.Duration(1+r.Tokens) * time.Minute)
		}
		placed = append(placed, oracle.Row{ID: uuid.New(), User: id, Organization: u.Organization, Tokens: int64(r.Tokens), At: at.UTC()})
	}
	return placed
}

// takeRow is a row of the writer's own to be corrected.
func (w *writer) takeRow(pick uint32) (oracle.Row, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rows) == 0 {
		return oracle.Row{}, false
	}
	return w.rows[int(pick)%len(w.rows)], true
}

// pause reports whether the schedule goes on after it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func isPgError(err error, code string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == code
}

func gid(seed uint64, writer, n int) string {
	return "laboratory-" + strconv.FormatUint(seed, 10) + "-" + strconv.Itoa(writer) + "-" + strconv.Itoa(n)
}
