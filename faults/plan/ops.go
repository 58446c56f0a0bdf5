package plan

import (
	"math/rand/v2"
	"time"
)

// OpKind is something that a writer does, in a transaction of its own.
type OpKind string

// What writers do.
const (
	Insert     OpKind = "insert"
	Call       OpKind = "log_ai_usage"
	Copy       OpKind = "copy"
	Bulk       OpKind = "bulk"
	Savepoints OpKind = "savepoints" // part of it is rolled back
	Rollback   OpKind = "rollback"
	Prepare    OpKind = "prepare" // two-phase commit, or its rollback
	Long       OpKind = "long"    // stays open across ticks, beside what the writer does next

	ChangeTokens OpKind = "change_tokens"
	MoveRow      OpKind = "move_row" // to another user
	DeleteRows   OpKind = "delete_rows"
	Truncate     OpKind = "truncate"
	Rewrite      OpKind = "rewrite" // rows and a correction, and at once an ALTER TABLE that rewrites
	SetLimit     OpKind = "set_limit"
	SetResetDay  OpKind = "set_reset_day"
	DeleteUser   OpKind = "delete_user"
	DeleteOrg    OpKind = "delete_organization"
	HoldUser     OpKind = "hold_user" // SELECT FOR UPDATE right after usage
	Backlog      OpKind = "backlog"   // a tick is held while many rows and a correction commit
)

// An Age says which period a row belongs to.
type Age int

// The periods of rows, as of when they are written.
const (
	Current Age = iota
	Previous
	Next
)

// A Row is a call of AI to be logged.
type Row struct {
	User   int // in Plan.Users
	Tokens int
	Age    Age
}

// An Op is one transaction of a writer, or a few that belong together.
type Op struct {
	Kind  OpKind
	After time.Duration // since the one before was due
	Rows  []Row
	Keep  time.Duration // how long it stays open, or holds what it locks
	Undo  bool          // it is rolled back
	User  int           // whom it changes, where it is about a user
	// Pick chooses among what the writer finds (rows of its own), and Value is
	// what is set: tokens, a percentage of the limit, a day.
	Pick  uint32
	Value int
	// Organization is whose budget it is about, or where to, and Budget what is set.
	Organization int
	Budget       *Budget
}

// weights of the operations that every schedule has.
var weights = []struct {
	kind   OpKind
	weight int
}{
	{Insert, 30},
	{Call, 8},
	{Copy, 8},
	{Savepoints, 9},
	{Rollback, 6},
	{Prepare, 9},
	{Long, 8},
	{ChangeTokens, 5},
	{MoveRow, 3},
	{DeleteRows, 3},
	{HoldUser, 3},
}

func (p *Plan) ops(r *rand.Rand, writer int) []Op {
	total := 0
	for _, w := range weights {
		total += w.weight
	}
	var ops []Op
	for range opsPerWriter {
		n := r.IntN(total)
		for _, w := range weights {
			if n -= w.weight; n < 0 {
				ops = append(ops, p.op(r, writer, w.kind))
				break
			}
		}
	}
	at := func(from, to float64, op Op) {
		i := int((from + (to-from)*r.Float64()) * float64(len(ops)))
		ops = append(ops[:i], append([]Op{op}, ops[i:]...)...)
	}
	for range bulkPerWriter {
		at(0, 1, p.op(r, writer, Bulk))
	}
	switch writer { // of each at most one, so that what may happen stays little
	case 0:
		at(0.3, 0.9, p.op(r, writer, Backlog))
	case 1:
		if p.Rollover == 0 && !p.migrates() { // what goes down and comes up is counted anew
			at(0.03, 0.15, p.op(r, writer, Rewrite)) // before the first fault, mostly
			at(0.4, 0.9, p.op(r, writer, Rewrite))
		}
		at(0.3, 0.9, p.op(r, writer, SetLimit))
	case 2:
		if p.Rollover == 0 && r.IntN(6) == 0 {
			at(0.05, 0.2, p.op(r, writer, Truncate))
		}
		at(0.3, 0.9, p.op(r, writer, DeleteUser))
	case 3:
		if p.Rollover == 0 && r.IntN(2) == 0 {
			at(0.2, 0.8, p.op(r, writer, SetResetDay))
		}
		if r.IntN(3) == 0 {
			at(0.4, 0.9, p.op(r, writer, DeleteOrg))
		} else {
			at(0.3, 0.9, p.op(r, writer, SetLimit))
		}
	}
	return ops
}

func (p *Plan) op(r *rand.Rand, writer int, kind OpKind) Op {
	op := Op{Kind: kind, After: exponential(r, pauseMean), Pick: r.Uint32(), Value: 1 + r.IntN(900)}
	if kind == Prepare && p.Bell { // PostgreSQL refuses PREPARE TRANSACTION after NOTIFY
		kind, op.Kind = Savepoints, Savepoints
	}
	rows := 1 + r.IntN(5)
	switch kind {
	case Call:
		rows = 1
	case Copy:
		rows = 5 + r.IntN(25)
	case Bulk:
		rows = rowsPerBulk/2 + r.IntN(rowsPerBulk)
	case Prepare:
		op.Keep, op.Undo = exponential(r, 100*time.Millisecond), r.IntN(4) == 0
	case Long:
		op.Keep = 100*time.Millisecond + exponential(r, 150*time.Millisecond)
	case Rollback:
		op.Undo = true
	case HoldUser:
		op.Keep = 50*time.Millisecond + exponential(r, 60*time.Millisecond)
	case Rewrite:
		op.Keep = 300 * time.Millisecond
	case Truncate:
		op.Keep = 20*time.Millisecond + time.Duration(r.IntN(50))*time.Millisecond
	case Backlog:
		rows, op.Keep = 1400+r.IntN(400), 120*time.Millisecond
	case ChangeTokens, MoveRow, DeleteRows, SetLimit, SetResetDay, DeleteUser, DeleteOrg:
		rows = 0
	}
	switch kind {
	case SetLimit:
		op.Value = pick(r, 50, 70, 130, 170, 200)
	case SetResetDay:
		op.Value = 1 + r.IntN(28)
	}
	op.User = p.owned(r, writer, kind == DeleteUser || kind == DeleteOrg)
	for range rows {
		row := Row{User: p.owned(r, writer, false), Tokens: 1 + r.IntN(400)}
		switch n := r.IntN(100); {
		case kind == HoldUser:
			row.User, row.Tokens = op.User, 200+r.IntN(1000)
		case n < 25:
			row.User = r.IntN(sharedUsers)
		case n < 29:
			row.Age, row.Tokens = Previous, 1+r.IntN(10)
		case n < 31:
			row.Age = Next
		case n < 33:
			row.Tokens = 0
		}
		op.Rows = append(op.Rows, row)
	}
	return op
}

// owned is one of a writer's users: one that is to be deleted, or another.
func (p *Plan) owned(r *rand.Rand, writer int, doomed bool) int {
	first := sharedUsers + writer*p.perWriter
	if doomed {
		return first
	}
	if r.IntN(12) == 0 { // who is deleted has used something before
		return first
	}
	return first + 1 + r.IntN(p.perWriter-1)
}
