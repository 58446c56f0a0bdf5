package main

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/internal/host"
)

// A competitor is a way to tell users. Its methods work on a database of the
// host that no other competitor sees.
type competitor interface {
	// install adds its tables and triggers, as the host's role.
	install(ctx context.Context, db *database) error
	// worker is the process that counts and tells; nil: there is none.
	worker(db *database) *exec.Cmd
	// ready is what the worker writes to its log once it works.
	ready() string
	// drained reports whether everything that has committed is counted and
	// told, as far as the competitor can know. It may wait for an answer.
	drained(ctx context.Context, db *database) (bool, error)
}

// An entry is a competitor in the tables.
type entry struct {
	key, label string
	competitor
	extra bool // played in one cell only: the first, or the one that target says
	dead  bool // while inserts are measured, its worker does not run
	// highest: of thresholds that a user crosses at once it records the highest only.
	highest bool
	// most is how many rows of a backlog it is given at the most, since it works
	// job by job, and the trigger writes them so; 0: all.
	most int
	// target is how long its ticks should take while it catches up, which is all
	// that it then plays; 0: its default.
	target time.Duration
}

// silent tells nobody.
func (e entry) silent() bool { return e.competitor == none{} }

var baseline = entry{key: "none", label: "no trigger", competitor: none{}}

var entries = []entry{
	baseline,
	{key: "none-again", label: "no trigger, once more", competitor: none{}, extra: true},
	{key: "host", label: "the host's trigger", competitor: hostTrigger{}, highest: true},
	{key: "notify", label: "notify for each row", competitor: notify{}},
	{key: "outbox", label: "outbox, polled", competitor: outbox{}},
	{key: "river", label: "River", competitor: river{}, most: jobsMost},
	{key: "graphile-worker", label: "graphile-worker", competitor: graphile{}, most: jobsMost},
	{key: "pgq", label: "PgQ", competitor: pgq{}},
	{key: "tokenalert", label: "**tokenalert**", competitor: tokenalert{}},
	{key: "tokenalert-dead", label: "**tokenalert**, worker dead", competitor: tokenalert{}, extra: true, dead: true},
	{key: "tokenalert-long", label: "**tokenalert**, ticks of 4 s", competitor: tokenalert{}, extra: true, target: 4 * time.Second},
}

func keys() []string {
	var all []string
	for _, e := range entries {
		if !e.extra {
			all = append(all, e.key)
		}
	}
	return all
}

// summed reports whether the summary has it: who is played everywhere, and what
// chance does.
func (e entry) summed() bool { return !e.extra || e.silent() }

// chosen are the competitors that are to be played, without extras and those
// that cannot be had.
func (o options) chosen() []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool {
		_, absent := o.absent[e.key]
		return e.extra || absent || len(o.competitors) > 0 && e.key != baseline.key && !slices.Contains(o.competitors, e.key)
	})
}

// variants are chosen, and their extras: the one without a trigger a second
// time, whose ratio to the first is what chance does, and dead workers.
func (o options) variants() []entry {
	return o.with(func(e entry) bool { return e.target == 0 })
}

// with are chosen, and those of their extras that are wanted.
func (o options) with(wanted func(entry) bool) []entry {
	all := o.chosen()
	for _, e := range entries {
		if e.extra && wanted(e) && slices.ContainsFunc(all, func(c entry) bool { return c.competitor == e.competitor }) {
			all = append(all, e)
		}
	}
	return all
}

// rotated begins with another of them in each turn, and goes backwards in every
// second one, so that none is always the first or always comes after the same.
func rotated[T any](all []T, turn int) []T {
	order := slices.Clone(all)
	if turn%2 == 1 {
		slices.Reverse(order)
	}
	n := turn % max(1, len(all))
	return slices.Concat(order[n:], order[:n])
}

//go:embed sql/*.sql
var files embed.FS

// tellable makes what all write who tell by our SQL, and what is their own.
func (db *database) tellable(ctx context.Context, own ...string) error {
	if err := host.ApplyNotifications(ctx, db.control); err != nil {
		return err
	}
	return db.script(ctx, append([]string{"alerts"}, own...)...)
}

func (db *database) script(ctx context.Context, names ...string) error {
	return script(ctx, db.control, names...)
}

func script(ctx context.Context, conn *pgx.Conn, names ...string) error {
	for _, name := range names {
		text, err := files.ReadFile("sql/" + name + ".sql")
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, string(text)); err != nil {
			return fmt.Errorf("%s.sql: %w", name, err)
		}
	}
	return nil
}

// workerEnv has this program be the worker of a competitor: a process of its
// own, as tokenalert is.
const workerEnv = "BENCH_WORKER"

// workers are the workers that this program can be, by key.
var workers = map[string]func(ctx context.Context, url string) error{
	"notify": runNotify,
	"outbox": runOutbox,
	"pgq":    runPgQ,
}

func isWorker() bool { return os.Getenv(workerEnv) != "" }

// runWorker is the worker that the environment names, until ctx ends; nothing,
// where it names none.
func runWorker(ctx context.Context) error {
	work := workers[os.Getenv(workerEnv)]
	if work == nil {
		return nil
	}
	err := work(ctx, os.Getenv("DATABASE_URL"))
	if ctx.Err() != nil { // told to end
		return nil
	}
	return err
}

// ourWorker is this program as the worker of a competitor.
func ourWorker(key, url string) *exec.Cmd {
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	cmd := exec.Command(program)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), workerEnv + "=" + key, "DATABASE_URL=" + url}
	return cmd
}

// weWork is what our workers write when they do.
const weWork = "at work"

// none has no trigger, and tells nobody: what an insert costs by itself.
type none struct{}

func (none) install(context.Context, *database) error         { return nil }
func (none) worker(*database) *exec.Cmd                       { return nil }
func (none) ready() string                                    { return "" }
func (none) drained(context.Context, *database) (bool, error) { return true, nil }
