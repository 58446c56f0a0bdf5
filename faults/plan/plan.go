package plan

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Thresholds are those of every schedule, in percent.
var Thresholds = []int{80, 90, 100}

// Shared is the owner of a user whom every writer uses.
const Shared = -1

// A Plan is a schedule.
type Plan struct {
	Seed    uint64
	Workers int
	// Bell: inserts ring. Otherwise the worker polls, as it does where
	// transactions can be prepared, and writers prepare some.
	Bell bool
	Zone string
	// Rollover is the reset day of the users whose period ends in the middle;
	// 0: nobody's does, and nothing stands in the way of a full count.
	Rollover int
	// Ahead moves the database's clock by so many days before the rollover is
	// worked out, so that it is never the worker's.
	AheadDays int
	Users     []User
	Writers   [][]Op
	Faults    []Fault
	// Lull is a transaction that inserts, stays open while nothing else happens
	// and the worker falls asleep, and commits last of all. Only with a bell.
	Lull *Op
	// Channels are those that each worker delivers by; empty: nobody delivers.
	Channels [][]string
	// Receivers are what goes wrong where alerts arrive, one after the other,
	// beside the other faults.
	Receivers []ReceiverFault
	// Organizations are those that users are in; empty: nobody has a budget, and
	// all are in one but for the doomed.
	Organizations []Organization

	length    time.Duration // of the writing, where it is set
	perWriter int           // users of each
}

// A User is somebody with a limit.
type User struct {
	Owner    int // the one writer who changes this user, or Shared
	Doomed   bool
	Limit    int
	ResetDay int
	// In Plan.Organizations, where there are some.
	Organization int
	Admin        bool
}

const (
	writers       = 4
	sharedUsers   = 6
	ownedUsers    = 9 // of each writer, who use something again and again
	opsPerWriter  = 30
	oncePerWriter = 10
	bulkPerWriter = 4
	rowsPerBulk   = 180
	pauseMean     = 32 * time.Millisecond
	firstFault    = 150 * time.Millisecond
	pauseFault    = 250 * time.Millisecond
)

// RolloverAfter is how long after the first insert a period ends.
const RolloverAfter = 1200 * time.Millisecond

// New makes the plan of a seed, with faults of the given kinds.
func New(seed uint64, kinds []FaultKind) *Plan {
	r := rand.New(rand.NewPCG(seed, 0x746f6b656e))
	p := &Plan{
		Seed: seed, Workers: 2 + r.IntN(2), Bell: r.IntN(2) == 0,
		perWriter: ownedUsers,
		Zone:      pick(r, "UTC", "America/Bogota", "Asia/Kolkata", "Europe/Madrid"),
	}
	p.Faults = faults(r, kinds)
	// Taking the schema down takes the moved clock with it.
	if !p.migrates() {
		p.AheadDays = r.IntN(60)
		if r.IntN(3) == 0 {
			p.Rollover = 1 + r.IntN(28)
			p.AheadDays = max(p.AheadDays, 1)
		}
	}
	p.makeUsers(r)
	for w := range writers {
		p.Writers = append(p.Writers, p.ops(r, w))
	}
	p.setLimits(r)
	p.addOnce(r)
	if p.Bell && r.IntN(4) > 0 {
		p.makeLull(r)
	}
	p.makeDeliveries()
	p.makeBudgets()
	return p
}

func (p *Plan) migrates() bool {
	return slices.ContainsFunc(p.Faults, func(f Fault) bool { return f.Kind == Migrate })
}

func (p *Plan) makeUsers(r *rand.Rand) {
	day := func() int {
		if p.Rollover > 0 && r.IntN(2) == 0 {
			return p.Rollover
		}
		for {
			if d := 1 + r.IntN(31); d != p.Rollover {
				return d
			}
		}
	}
	for range sharedUsers {
		p.Users = append(p.Users, User{Owner: Shared, ResetDay: day()})
	}
	for w := range writers {
		for i := range p.perWriter {
			p.Users = append(p.Users, User{Owner: w, ResetDay: day(), Doomed: i == 0})
		}
	}
}

// setLimits sets each limit by what the plan has the user use, so that about
// half of them reach 100 percent, and some nothing.
func (p *Plan) setLimits(r *rand.Rand) {
	used := make([]int, len(p.Users))
	kept := 1.0 // what a TRUNCATE leaves of it
	for _, ops := range p.Writers {
		for i, op := range ops {
			if op.Kind == Truncate {
				kept = 1 - float64(i)/float64(len(ops))
			}
			for _, row := range op.Rows {
				if !op.Undo && row.Age == Current {
					used[row.User] += row.Tokens
				}
			}
		}
	}
	for i := range p.Users {
		u := &p.Users[i]
		share := kept * (0.45 + 1.1*r.Float64()) // of what is planned; faults take some
		if p.Rollover == u.ResetDay {
			share /= 2
		}
		u.Limit = max(1, int(float64(used[i])*share))
	}
}

// addOnce has users use something once, and cross by it: what is lost then, no
// later row brings back.
func (p *Plan) addOnce(r *rand.Rand) {
	for w, ops := range p.Writers {
		for range oncePerWriter {
			op := Op{Kind: Insert, After: exponential(r, pauseMean), Rows: []Row{{User: len(p.Users), Tokens: 800 + r.IntN(250)}}}
			p.Users = append(p.Users, User{Owner: w, Limit: 1000, ResetDay: 1 + r.IntN(28)})
			ops = slices.Insert(ops, r.IntN(len(ops)+1), op)
		}
		p.Writers[w] = ops
	}
}

// makeLull has one user cross in the transaction that comes last.
func (p *Plan) makeLull(r *rand.Rand) {
	user := len(p.Users)
	p.Users = append(p.Users, User{Owner: 0, Limit: 1000, ResetDay: 1 + r.IntN(28)})
	p.Lull = &Op{Kind: Long, Rows: []Row{{User: user, Tokens: 900 + r.IntN(200)}}, Keep: 350*time.Millisecond + rand20(r)}
}

func rand20(r *rand.Rand) time.Duration { return time.Duration(r.IntN(200)) * time.Millisecond }

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// exponential is a pause of that mean, at most four times as long.
func exponential(r *rand.Rand, mean time.Duration) time.Duration {
	return min(time.Duration(r.ExpFloat64()*float64(mean)), 4*mean)
}
