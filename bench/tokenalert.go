package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"tokenalert/internal/demo"
	"tokenalert/worker"
)

// tokenalert is the binary of this tree under its default settings.
type tokenalert struct{}

func (tokenalert) install(ctx context.Context, db *database) error {
	if err := db.command(ctx, "migrate", "up"); err != nil {
		return err
	}
	return db.command(ctx, "migrate", "grant", demo.WorkerRole)
}

// command runs tokenalert as the host's role.
func (db *database) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, db.binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + db.hostURL()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tokenalert %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// worker logs at its default level, but where ticks are looked at.
func (tokenalert) worker(db *database) *exec.Cmd {
	cmd := exec.Command(db.binary, "run")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + db.server.URLAs(demo.WorkerRole, db.name),
		"TOKENALERT_HTTP_ADDRESS=127.0.0.1:0", "TOKENALERT_LOG_FORMAT=json",
	}
	if db.logTicks {
		cmd.Env = append(cmd.Env, "TOKENALERT_LOG_LEVEL=debug")
	}
	if db.target > 0 {
		cmd.Env = append(cmd.Env, "TOKENALERT_TICK_TARGET="+db.target.String())
	}
	if db.delivers {
		cmd.Env = append(cmd.Env, "TOKENALERT_WEBHOOK_URL=http://127.0.0.1:9/", "TOKENALERT_WEBHOOK_ALLOW=127.0.0.1",
			"TOKENALERT_WEBHOOK_SECRET=whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	}
	return cmd
}

func (tokenalert) ready() string { return string(worker.EventLeaderAcquired) }

// drained compares how many rows the ticks have counted with how many there
// are, and wants nobody left undecided. Before the first tick there is no total.
func (tokenalert) drained(ctx context.Context, db *database) (bool, error) {
	var rows *int64
	var left bool
	err := db.control.QueryRow(ctx, `SELECT (SELECT sum(rows)::bigint FROM tokenalert.ticks),
		EXISTS (SELECT FROM tokenalert.recounts)`).Scan(&rows, &left)
	return rows != nil && *rows >= db.rows.Load() && !left, err
}

// ticksIn reads the worker's log: when each tick was told, and the milliseconds
// that it took.
func ticksIn(file string, tick func(at time.Time, took float64)) error {
	log, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // it was only read
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var l struct {
			At    time.Time `json:"ts"`
			Event string    `json:"event"`
			Took  float64   `json:"duration_ms"`
		}
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Event == string(worker.EventTickCompleted) {
			tick(l.At, l.Took)
		}
	}
	return lines.Err()
}

// longestTick is in milliseconds; ticks is how many there were.
func longestTick(file string) (longest float64, ticks int, err error) {
	err = ticksIn(file, func(_ time.Time, took float64) { longest, ticks = max(longest, took), ticks+1 })
	return longest, ticks, err
}
