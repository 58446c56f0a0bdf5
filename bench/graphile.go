package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// graphile is graphile-worker, a job queue in JavaScript: a job for each user of
// whom rows wait, which its own runner works.
type graphile struct{}

//go:embed graphile/package.json graphile/package-lock.json graphile/worker.js
var graphileFiles embed.FS

// installWithin is how long npm may take.
const installWithin = 3 * time.Minute

func (graphile) build(ctx context.Context, b *bench) (map[string]string, error) {
	node, err := exec.CommandContext(ctx, "node", "--version").Output()
	if err != nil {
		return nil, missing{fmt.Sprintf("there is no Node.js here: %v", err)}
	}
	folder := graphileFolder(b.scratch)
	sources, err := fs.Sub(graphileFiles, "graphile")
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(folder, sources); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, installWithin)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
	npm.Dir = folder
	if out, err := npm.CombinedOutput(); err != nil {
		code, _, _ := strings.Cut(string(out), "\n") // its first line has the kind of error
		return nil, missing{strings.TrimSpace(fmt.Sprintf("npm ci: %v %s", err, code))}
	}
	raw, err := os.ReadFile(filepath.Join(folder, "node_modules", "graphile-worker", "package.json"))
	if err != nil {
		return nil, err
	}
	var installed struct{ Version string }
	if err := json.Unmarshal(raw, &installed); err != nil {
		return nil, err
	}
	return map[string]string{"graphile-worker": installed.Version, "Node.js": strings.TrimSpace(string(node))}, nil
}

func graphileFolder(scratch string) string { return filepath.Join(scratch, "graphile") }

func (g graphile) install(ctx context.Context, db *database) error {
	return db.installJobs(ctx, g.command(db, "migrate"), "graphile")
}

func (g graphile) worker(db *database) *exec.Cmd { return g.command(db, "work") }
func (graphile) ready() string                   { return weWork }

func (graphile) command(db *database, what string) *exec.Cmd {
	cmd := exec.Command("node", filepath.Join(graphileFolder(db.scratch), "worker.js"), what)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + db.hostURL(), countEnv + "=" + countJob}
	return cmd
}

// countJob counts the rows of a job's payload that no run of it has counted yet.
const countJob = `
	WITH given AS (
		SELECT id, user_id, tokens, created_at
		FROM jsonb_to_recordset($1::jsonb) AS (id uuid, user_id uuid, tokens integer, created_at timestamptz)
	), fresh AS (
		INSERT INTO usage_counted (id) SELECT id FROM given ON CONFLICT DO NOTHING RETURNING id
	), totals AS (
		INSERT INTO usage_totals AS t (user_id, period_start, tokens_used)
		SELECT user_id, date_trunc('month', created_at, 'UTC'), sum(tokens) FROM given JOIN fresh USING (id) GROUP BY 1, 2
		ON CONFLICT (user_id, period_start) DO UPDATE SET tokens_used = t.tokens_used + excluded.tokens_used
		RETURNING user_id, period_start, tokens_used
	), ` + tellCrossings + `
	SELECT count(*) FROM told`

func (graphile) drained(ctx context.Context, db *database) (bool, error) {
	return db.worked(ctx, "FROM graphile_worker.jobs")
}
