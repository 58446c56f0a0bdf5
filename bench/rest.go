package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"tokenalert/internal/demo"
	"tokenalert/internal/host"
	"tokenalert/worker"
)

// A restPlay is what a worker used while nothing happened.
type restPlay struct {
	Competitor string  `json:"competitor"`
	Replica    string  `json:"replica,omitempty"` // leader or follower
	Seconds    float64 `json:"seconds"`
	Statements int     `json:"statements"`
	WALBytes   int64   `json:"wal_bytes"` // of the whole server: the leader's are the follower's too
	CPUSeconds float64 `json:"cpu_seconds"`
	Resident   int64   `json:"resident_bytes"` // at the end; 0: unknown
}

// What tokenalert may use, and be.
const (
	goalLeader   = 30 // statements a minute
	goalFollower = 90
	goalMemory   = 30  // MB, of each
	goalBinary   = 20  // MB
	goalStart    = 200 // milliseconds
)

const (
	leading    = "leader"
	following  = "follower"
	delivering = ", delivering" // by one channel, with nothing to deliver
)

// secondRole is the follower's, so that the server's log tells the two apart.
const secondRole = demo.WorkerRole + "_second"

const restUsers, restRows = 100, 1000

type rest struct {
	*player
	template *template
}

func (p *player) newRest(ctx context.Context) (*rest, error) {
	r := &rest{player: p}
	if !p.plays(cellRest) {
		return r, nil
	}
	if _, err := p.admin.Exec(ctx, "CREATE ROLE "+secondRole+" LOGIN"); err != nil {
		return nil, err
	}
	var err error
	r.template, err = p.newTemplate(ctx, "rest", restUsers, restRows, costLimit)
	return r, err
}

// resting are those who have a worker, and the server by itself.
func (r *rest) resting() []entry {
	return slices.DeleteFunc(r.chosen(), func(e entry) bool { return e.ready() == "" && e.key != baseline.key })
}

func (r *rest) steps() int {
	if r.template == nil {
		return 0
	}
	return len(r.resting())
}

// play plays once in a run: these are rates that hardly vary, over a long time.
func (r *rest) play(ctx context.Context, round int) error {
	if r.template == nil || round > 0 {
		return nil
	}
	if err := r.configure(ctx, "autovacuum = off"); err != nil { // whose WAL falls to whoever is played when it comes
		return err
	}
	for _, e := range r.resting() {
		db, err := r.settled(ctx, r.template, e)
		if err == nil {
			err = r.playOne(ctx, db)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", e.key, err), stopAll([]*database{db}))
		}
	}
	return r.configure(ctx, "autovacuum = on")
}

// configure changes a setting of the running server.
func (b *bench) configure(ctx context.Context, setting string) error {
	for _, statement := range []string{"ALTER SYSTEM SET " + setting, "SELECT pg_reload_conf()"} {
		if _, err := b.admin.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (r *rest) playOne(ctx context.Context, db *database) error {
	if err := db.set(ctx, map[string]string{"log_statement": "'all'"}); err != nil {
		return err
	}
	if err := db.start(ctx); err != nil {
		return err
	}
	var err error
	switch {
	case db.competitor == tokenalert{}:
		err = r.pair(ctx, db)
	case db.silent():
		err = r.measure(ctx, r.form.RestFor, replica{db: db})
	default: // who polls does so steadily
		err = r.measure(ctx, r.form.RestFor/3, replica{db: db})
	}
	if err != nil {
		return err
	}
	m := r.results.Rest[len(r.results.Rest)-1]
	r.step("at rest, %s: %.0f statements a minute", strings.TrimSpace(db.key+" "+m.Replica), m.perMinute(float64(m.Statements)))
	return db.drop(ctx)
}

// pair measures a leader and a follower at once, and then how fast one starts.
func (r *rest) pair(ctx context.Context, db *database) error {
	if err := (follower{}).install(ctx, db); err != nil {
		return err
	}
	second := &database{bench: db.bench, entry: entry{key: db.key, competitor: follower{}}, name: db.name, control: db.control}
	for _, with := range []string{"", delivering} {
		if with != "" { // the first leads by now
			db.delivers, second.delivers = true, true
			if err := db.start(ctx); err != nil {
				return err
			}
		}
		err := second.start(ctx)
		if err == nil {
			err = r.measure(ctx, r.form.RestFor, replica{db, leading + with, demo.WorkerRole}, replica{second, following + with, secondRole})
		}
		if err := errors.Join(err, second.stop(), db.stop()); err != nil {
			return err
		}
	}
	db.delivers = false
	for range r.form.Starts {
		took, err := timeStart(ctx, db)
		if err != nil {
			return err
		}
		r.results.Starts = append(r.results.Starts, milliseconds(took))
	}
	info, err := os.Stat(db.binary)
	if err != nil {
		return err
	}
	r.results.Binary = info.Size()
	return nil
}

// follower is tokenalert once more, under a role of its own.
type follower struct{ tokenalert }

func (follower) install(ctx context.Context, db *database) error {
	return db.command(ctx, "migrate", "grant", secondRole)
}

func (f follower) worker(db *database) *exec.Cmd {
	cmd := f.tokenalert.worker(db)
	cmd.Env = append(cmd.Env, "DATABASE_URL="+db.server.URLAs(secondRole, db.name)) // the last one counts
	return cmd
}

func (follower) ready() string { return string(worker.EventFollowerWaiting) }

// A replica is a worker that is measured.
type replica struct {
	db   *database
	name string
	role string // whose statements are its; empty: all of the database
}

// measure lets workers come to rest, for a sixth of the time, and looks at them
// before and after it.
func (r *rest) measure(ctx context.Context, d time.Duration, replicas ...replica) error {
	if err := sleep(ctx, d/6); err != nil {
		return err
	}
	plays := make([]restPlay, len(replicas))
	for i, w := range replicas {
		plays[i] = restPlay{Competitor: w.db.key, Replica: w.name, CPUSeconds: -w.db.cpuSeconds()}
	}
	before, err := r.walPosition(ctx)
	if err != nil {
		return err
	}
	r.log.reset()
	began := time.Now()
	if err := sleep(ctx, d); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := r.walPosition(ctx)
	if err != nil {
		return err
	}
	for i, w := range replicas {
		m := &plays[i]
		m.Seconds, m.WALBytes = took.Seconds(), after-before
		m.Statements = r.log.statements(w.db.name, w.role)
		m.CPUSeconds += w.db.cpuSeconds()
		m.Resident = w.db.kilobytes("VmRSS") * 1024
	}
	r.results.Rest = append(r.results.Rest, plays...)
	return nil
}

func (m restPlay) perMinute(v float64) float64 { return v * 60 / m.Seconds }
func (m restPlay) competitor() string          { return m.Competitor }

// timeStart has a row wait for a worker that starts, and returns how long it
// took from there to the line that the worker writes when it has counted it.
func timeStart(ctx context.Context, db *database) (time.Duration, error) {
	u := db.users[0]
	if err := host.LogUsage(ctx, db.control, u.id, u.organization, 1); err != nil {
		return 0, err
	}
	db.rows.Add(1)
	db.logTicks = true
	began := time.Now()
	if err := db.launch(); err != nil {
		return 0, err
	}
	var first time.Time
	err := db.await(ctx, readyWithin, func() (bool, error) {
		err := ticksIn(db.log, func(at time.Time, _ float64) {
			if first.IsZero() {
				first = at
			}
		})
		return !first.IsZero(), err
	})
	return first.Sub(began), errors.Join(err, db.stop())
}

// A serverLog is what the server wrote since the last reset, where log_statement
// is all: in the databases of this cell.
type serverLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// logPrefix begins each line with the database and the role.
const logPrefix = "%d|%u|"

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *serverLog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// statements counts those of a role, or of all. One by itself is logged as a
// "statement", one of the extended protocol as an "execute".
func (l *serverLog) statements(database, role string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if role == "" {
		role = `[^|]*`
	}
	line := regexp.MustCompile(`(?m)^` + database + `\|` + role + `\|LOG:  (statement:|execute )`)
	return len(line.FindAllIndex(l.text.Bytes(), -1))
}
