package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"tokenalert/internal/demo"
	"tokenalert/worker"
)

// tokenalert is the binary of this tree under its default settings.
type tokenalert struct{}

func (tokenalert) install(ctx context.Context, db *database) error {
	for _, args := range [][]string{{"migrate", "up"}, {"migrate", "grant", demo.WorkerRole}} {
		cmd := exec.CommandContext(ctx, db.binary, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + db.hostURL()}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("tokenalert %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// worker logs at its default level, but where ticks are looked at.
func (tokenalert) worker(db *database) *exec.Cmd {
	cmd := exec.Command(db.binary, "run")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + db.server.URLAs(demo.WorkerRole, db.name),
		"TOKENALERT_HTTP_ADDRESS=off", "TOKENALERT_LOG_FORMAT=json",
	}
	if db.logTicks {
		cmd.Env = append(cmd.Env, "TOKENALERT_LOG_LEVEL=debug")
	}
	return cmd
}

func (tokenalert) ready() string { return string(worker.EventLeaderAcquired) }

// drained compares how many rows the ticks have counted with how many there
// are, and wants nobody left undecided.
func (tokenalert) drained(ctx context.Context, db *database) (bool, error) {
	var rows int64
	var left bool
	err := db.control.QueryRow(ctx, `SELECT (SELECT coalesce(sum(rows), 0)::bigint FROM tokenalert.ticks),
		EXISTS (SELECT FROM tokenalert.recounts)`).Scan(&rows, &left)
	return rows >= db.rows.Load() && !left, err
}

// longestTick reads the worker's log: milliseconds, and how many there were.
func longestTick(file string) (longest float64, ticks int, err error) {
	log, err := os.Open(file)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = log.Close() }() // it was only read
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var l struct {
			Event string  `json:"event"`
			Took  float64 `json:"duration_ms"`
		}
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Event == string(worker.EventTickCompleted) {
			longest, ticks = max(longest, l.Took), ticks+1
		}
	}
	return longest, ticks, lines.Err()
}
