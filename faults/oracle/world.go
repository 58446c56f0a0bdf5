package oracle

import (
	"time"

	"github.com/google/uuid"
)

// A User is a user's limit and reset day, and who they are in which organization.
type User struct {
	Limit        int64
	ResetDay     int
	Organization uuid.UUID
	Admin        bool
}

// A Row is a row of usage.
type Row struct {
	ID, User     uuid.UUID
	Organization uuid.UUID // whose budget it belongs to, wherever the user is later
	Tokens       int64
	At           time.Time
}

// A Change is what a transaction did that has committed.
type Change struct {
	Order    int64 // among all that touch the same users; where there are budgets, among all
	Insert   []Row
	Update   []Row // as they are afterwards
	Delete   []uuid.UUID
	Truncate bool
	Limit    map[uuid.UUID]int64
	ResetDay map[uuid.UUID]int
	Gone     []uuid.UUID // users deleted

	Organization map[uuid.UUID]uuid.UUID // users moved
	Admin        map[uuid.UUID]bool
	Budget       map[uuid.UUID]*Budget // of organizations; nil: taken away
	// Done is by when it had committed, by the database's clock.
	Done time.Time
}

// A World is what the writers know.
type World struct {
	Zone       *time.Location
	Thresholds []int
	Ended      time.Time // by the database's clock, when all was quiet
	Users      map[uuid.UUID]User
	Changes    []Change
	// FullCounts: something made a worker count everything anew, which says
	// nothing of what was crossed in periods that have ended.
	FullCounts bool

	Budgets map[uuid.UUID]Budget // from the beginning
	Webhook bool                 // some worker delivers by webhook
}

// A Total is what the worker has counted.
type Total struct {
	User   uuid.UUID
	Start  time.Time
	Tokens int64
}

// An Alert is a row of token_limit_alerts.
type Alert struct {
	ID, User     uuid.UUID
	Start, End   time.Time
	Threshold    int
	Limit, Used  int64
	Sent         bool
	SentAt       *time.Time
	CreatedAt    time.Time
	Reason       string
	Notification *uuid.UUID
	Channels     []string // of the worker that decided, as far as is known
}

// A Notification is a row of notifications.
type Notification struct {
	ID, User    uuid.UUID
	Type, Link  string
	Title, Text string
}

// A Database is what it holds in the end, in one snapshot.
type Database struct {
	Rows          []Row
	Users         map[uuid.UUID]User
	Totals        []Total
	Alerts        []Alert
	Notifications []Notification

	Budgets      []BudgetInForce
	Shares       []Share
	BudgetTotals []BudgetTotal
	BudgetAlerts []BudgetAlert

	Receipts []Receipt      // by e-mail and webhook, in their order
	Copies   []Notification // in the other database
}

// PeriodStart is the first instant of the period that at is in: midnight of the
// last reset day, which is the month's last where the month is shorter.
func PeriodStart(day int, zone *time.Location, at time.Time) time.Time {
	local := at.In(zone)
	for back := range 3 {
		first := time.Date(local.Year(), local.Month()-time.Month(back), 1, 0, 0, 0, 0, zone)
		if start := resetIn(day, first); !start.After(at) {
			return start
		}
	}
	panic("no period begins within two months before " + at.String())
}

// PeriodEnd is the first instant after the period that at is in.
func PeriodEnd(day int, zone *time.Location, at time.Time) time.Time {
	start := PeriodStart(day, zone, at)
	first := time.Date(start.Year(), start.Month()+1, 1, 0, 0, 0, 0, zone)
	return resetIn(day, first)
}

func resetIn(day int, first time.Time) time.Time {
	last := first.AddDate(0, 1, -1).Day()
	return time.Date(first.Year(), first.Month(), max(1, min(day, last)), 0, 0, 0, 0, first.Location())
}
