package lane

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
)

// run does what the plan has for this writer.
func (w *writer) run(ctx context.Context) {
	due := time.Now()
	for i, op := range w.plan.Writers[w.n] {
		due = due.Add(op.After)
		if !pause(ctx, time.Until(due)) {
			break
		}
		w.do(ctx, i, op)
	}
	w.beside.Wait()
}

func (w *writer) do(ctx context.Context, i int, op plan.Op) {
	insert := func(tx pgx.Tx, c *oracle.Change) error { return w.insert(ctx, tx, c, op.Rows) }
	switch op.Kind {
	case plan.Insert, plan.Bulk:
		w.transact(ctx, op.Kind, insert)
	case plan.Call:
		w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error { return w.call(ctx, tx, c, op.Rows) })
	case plan.Copy:
		w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error { return w.copy(ctx, tx, c, op.Rows) })
	case plan.Savepoints:
		w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error { return w.savepoints(ctx, tx, c, op) })
	case plan.Rollback:
		w.rollback(ctx, op)
	case plan.Prepare:
		w.prepare(ctx, i, op)
	case plan.Long:
		w.long(ctx, op)
	case plan.HoldUser:
		if w.transact(ctx, op.Kind, insert) {
			w.holdUser(ctx, op)
		}
	case plan.Backlog:
		w.backlog(ctx, op)
	case plan.Rewrite:
		w.rewrite(ctx, op)
	case plan.Truncate:
		w.fullCounts.Store(true)
		w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error {
			c.Truncate = true
			if _, err := tx.Exec(ctx, "TRUNCATE ai_usage_logs"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "SELECT pg_sleep($1)", op.Keep.Seconds())
			return err
		})
	case plan.SetBudget, plan.RemoveBudget:
		w.changeBudget(ctx, op)
	default:
		w.correct(ctx, op)
	}
}

// savepoints inserts thrice, and takes the second back.
func (w *writer) savepoints(ctx context.Context, tx pgx.Tx, c *oracle.Change, op plan.Op) error {
	if err := w.insert(ctx, tx, c, op.Rows); err != nil {
		return err
	}
	inner, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	var undone oracle.Change
	if err := w.insert(ctx, inner, &undone, op.Rows); err != nil {
		return err
	}
	if err := inner.Rollback(ctx); err != nil {
		return err
	}
	inner, err = tx.Begin(ctx)
	if err != nil {
		return err
	}
	if err := w.insert(ctx, inner, c, op.Rows[:1]); err != nil {
		return err
	}
	return inner.Commit(ctx)
}

func (w *writer) rollback(ctx context.Context, op plan.Op) {
	conn, err := w.session(ctx)
	if err != nil {
		return
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return
	}
	err = w.insert(ctx, tx, &oracle.Change{}, op.Rows)
	if rollbackErr := tx.Rollback(ctx); err == nil {
		err = rollbackErr
	}
	w.trace("op", "writer", w.n, "kind", op.Kind, "outcome", "rolled back", "error", text(err))
}

// long inserts now and commits later, beside what comes next.
func (w *writer) long(ctx context.Context, op plan.Op) {
	conn, err := w.connect(ctx)
	if err != nil {
		return
	}
	var change oracle.Change
	tx, err := conn.Begin(ctx)
	if err == nil {
		err = w.insert(ctx, tx, &change, op.Rows)
	}
	if err != nil {
		w.trace("op", "writer", w.n, "kind", op.Kind, "outcome", "failed", "error", err.Error())
		_ = conn.Close(ctx) // it may be broken
		return
	}
	w.beside.Go(func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		if pause(ctx, op.Keep) {
			w.commit(ctx, tx, op.Kind, &change)
		}
	})
}

// prepare is a two-phase commit. From PREPARE on it is bound to end, whatever
// becomes of sessions and servers.
func (w *writer) prepare(ctx context.Context, i int, op plan.Op) {
	conn, err := w.session(ctx)
	if err != nil {
		return
	}
	name := gid(w.plan.Seed, w.n, i)
	var change oracle.Change
	id := uuid.New()
	tx, err := conn.Begin(ctx)
	if err == nil {
		err = w.insert(ctx, tx, &change, op.Rows)
	}
	if err == nil {
		_, err = tx.Exec(ctx, "INSERT INTO transactions (id) VALUES ($1)", id)
	}
	if err == nil {
		_, err = tx.Exec(ctx, "PREPARE TRANSACTION '"+name+"'")
	}
	if err != nil {
		if tx != nil {
			_ = tx.Rollback(ctx) // it has failed, or nobody knows
		}
		if !w.isPrepared(ctx, name) {
			w.trace("op", "writer", w.n, "kind", op.Kind, "outcome", "failed", "error", err.Error())
			return
		}
	}
	w.beside.Go(func() {
		pause(ctx, op.Keep)
		w.finishPrepared(ctx, name, id, op, change)
	})
}

func (s *site) isPrepared(ctx context.Context, name string) bool {
	return s.answer(ctx, "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1)", name)
}

func (w *writer) finishPrepared(ctx context.Context, name string, id uuid.UUID, op plan.Op, change oracle.Change) {
	conn, err := w.connect(ctx)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	w.committing.Lock()
	defer w.committing.Unlock()
	end := "COMMIT PREPARED"
	if op.Undo {
		end = "ROLLBACK PREPARED"
	}
	for {
		// Numbered while it still has its locks, which keep a TRUNCATE in its place.
		if err = conn.QueryRow(ctx, "SELECT nextval('transaction_order')").Scan(&change.Order); err == nil {
			_, err = conn.Exec(ctx, end+" '"+name+"'")
		}
		if err == nil || isPgError(err, "42704") { // there is none of that name: the answer before was lost
			break
		}
		if !pause(ctx, 20*time.Millisecond) {
			return
		}
		if conn.IsClosed() {
			if conn, err = w.connect(ctx); err != nil {
				return
			}
		}
	}
	if !w.hasCommitted(ctx, id) {
		w.trace("op", "writer", w.n, "kind", op.Kind, "outcome", "rolled back")
		return
	}
	w.note(op.Kind, change)
}

// holdUser takes the row of a user who has just used something.
func (w *writer) holdUser(ctx context.Context, op plan.Op) {
	conn, err := w.connect(ctx)
	if err != nil {
		return
	}
	id := w.users[op.User]
	w.beside.Go(func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		tx, err := conn.Begin(ctx)
		if err != nil {
			return
		}
		if _, err = tx.Exec(ctx, "SELECT FROM users WHERE id = $1 FOR UPDATE", id); err == nil {
			pause(ctx, op.Keep)
		}
		_ = tx.Rollback(ctx) // it has changed nothing
		w.trace("op", "writer", w.n, "kind", op.Kind, "outcome", "held", "error", text(err))
	})
}

// backlog has many rows and a correction commit while a tick is held, so that
// the next one is bounded.
func (w *writer) backlog(ctx context.Context, op plan.Op) {
	h, err := w.hold(ctx, plan.Counting)
	if err != nil {
		return
	}
	defer h.release()
	h.await(ctx, 150*time.Millisecond)
	const parts = 8
	size := len(op.Rows) / parts
	for i := range parts {
		rows := op.Rows[i*size : (i+1)*size]
		w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error { return w.insert(ctx, tx, c, rows) })
	}
	w.mu.Lock()
	newest := uint32(max(0, len(w.rows)-1))
	w.mu.Unlock()
	w.correct(ctx, plan.Op{Kind: plan.ChangeTokens, Pick: newest, Value: op.Value})
}

// rewrite has rows and a correction commit while a tick is held, and right after
// it gives the table another file, in which no snapshot from before sees a row.
// It commits as soon as a tick that has its snapshot waits for the table.
func (w *writer) rewrite(ctx context.Context, op plan.Op) {
	w.fullCounts.Store(true)
	var h *held
	w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error {
		err := w.insert(ctx, tx, c, op.Rows)
		if err == nil {
			h, err = w.hold(ctx, plan.Counting) // so that the tick which it holds has something to count
		}
		return err
	})
	if h == nil {
		return
	}
	release := sync.OnceFunc(h.release)
	defer release()
	h.await(ctx, 150*time.Millisecond)
	w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error { return w.insert(ctx, tx, c, op.Rows) })
	w.correct(ctx, plan.Op{Kind: plan.ChangeTokens, Pick: op.Pick, Value: op.Value})
	conn, err := w.session(ctx)
	if err != nil {
		return
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return
	}
	time.AfterFunc(20*time.Millisecond, release)               // by then the ALTER TABLE is next in line
	_, err = tx.Exec(ctx, "SET LOCAL lock_timeout = '1500ms'") // after long transactions
	if err == nil {
		_, err = tx.Exec(ctx, "ALTER TABLE ai_usage_logs ALTER COLUMN request_metadata TYPE jsonb USING request_metadata || '{}'")
	}
	waited := err == nil && w.awaitTickBehind(ctx, conn.PgConn().PID(), op.Keep)
	if err == nil {
		err = tx.Commit(ctx) // or not: no row says another thing
	} else {
		_ = tx.Rollback(ctx) // it has failed
	}
	w.trace("op", "writer", w.n, "kind", op.Kind, "outcome", "rewritten", "waited", waited, "error", text(err))
}

// correct changes what is there: rows, limits, reset days, users.
func (w *writer) correct(ctx context.Context, op plan.Op) {
	row, found := w.takeRow(op.Pick)
	id := w.users[op.User]
	user, there := w.user(id)
	w.transact(ctx, op.Kind, func(tx pgx.Tx, c *oracle.Change) error {
		switch op.Kind {
		case plan.ChangeTokens, plan.MoveRow, plan.GiveRow, plan.DeleteRows:
			if !found {
				return errNothing
			}
			return w.correctRow(ctx, tx, c, op, row, id, there)
		}
		if !there {
			return errNothing
		}
		// The order of this and a TRUNCATE is that of their locks.
		if _, err := tx.Exec(ctx, "LOCK TABLE ai_usage_logs IN ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		var err error
		switch op.Kind {
		case plan.SetLimit:
			limit := max(1, user.Limit*int64(op.Value)/100)
			c.Limit = map[uuid.UUID]int64{id: limit}
			_, err = tx.Exec(ctx, "UPDATE users SET monthly_token_limit = $2 WHERE id = $1", id, limit)
		case plan.SetResetDay:
			c.ResetDay = map[uuid.UUID]int{id: op.Value}
			_, err = tx.Exec(ctx, "UPDATE users SET token_limit_reset_day = $2 WHERE id = $1", id, op.Value)
		case plan.MoveUser:
			to := w.organizations[op.Organization]
			c.Organization = map[uuid.UUID]uuid.UUID{id: to}
			_, err = tx.Exec(ctx, "UPDATE users SET organization_id = $2 WHERE id = $1", id, to)
		case plan.SetAdmin:
			c.Admin = map[uuid.UUID]bool{id: op.Value == 1}
			_, err = tx.Exec(ctx, "UPDATE users SET role = CASE WHEN $2 THEN 'admin' ELSE 'student' END WHERE id = $1", id, op.Value == 1)
		case plan.DeleteUser:
			c.Gone = []uuid.UUID{id}
			_, err = tx.Exec(ctx, "DELETE FROM users WHERE id = $1", id)
		case plan.DeleteOrg:
			c.Gone = []uuid.UUID{id}
			_, err = tx.Exec(ctx, "DELETE FROM organizations WHERE id = $1", w.organizationOf(id))
		}
		return err
	})
}

func (w *writer) correctRow(ctx context.Context, tx pgx.Tx, c *oracle.Change, op plan.Op, row oracle.Row, to uuid.UUID, there bool) error {
	var err error
	switch op.Kind {
	case plan.ChangeTokens:
		row.Tokens = int64(op.Value)
		c.Update = []oracle.Row{row}
		_, err = tx.Exec(ctx, "UPDATE ai_usage_logs SET tokens_used = $2 WHERE id = $1", row.ID, row.Tokens)
	case plan.MoveRow:
		if !there {
			return errNothing
		}
		row.User, row.Organization = to, w.organizationOf(to)
		c.Update = []oracle.Row{row}
		_, err = tx.Exec(ctx, "UPDATE ai_usage_logs SET user_id = $2, organization_id = $3 WHERE id = $1", row.ID, row.User, row.Organization)
	case plan.GiveRow:
		row.Organization = w.organizations[op.Organization]
		c.Update = []oracle.Row{row}
		_, err = tx.Exec(ctx, "UPDATE ai_usage_logs SET organization_id = $2 WHERE id = $1", row.ID, row.Organization)
	case plan.DeleteRows:
		c.Delete = []uuid.UUID{row.ID}
		_, err = tx.Exec(ctx, "DELETE FROM ai_usage_logs WHERE id = $1", row.ID)
	}
	return err
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
