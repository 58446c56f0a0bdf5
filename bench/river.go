package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"tokenalert/internal/module"
)

// river is a job queue in Go: a job for each row, which its own client works.
// That worker is a module of its own, so that nobody needs River for the rest.
type river struct{}

const riverModule = "github.com/riverqueue/river"

func (river) build(ctx context.Context, b *bench) (map[string]string, error) {
	root, err := module.Root(ctx)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(root, "bench", "river")
	// In the cache of modules already: nothing is asked of the network.
	if err := exec.CommandContext(ctx, "go", "-C", folder, "mod", "download").Run(); err != nil {
		return nil, missing{"its modules cannot be downloaded: go -C bench/river mod download says why"}
	}
	program := riverProgram(b.scratch)
	build := exec.CommandContext(ctx, "go", "-C", folder, "build", "-trimpath", "-buildvcs=false", "-o", program)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, m := range info.Deps {
		if m.Path == riverModule {
			versions["River"] = m.Version
		}
	}
	return versions, nil
}

func riverProgram(scratch string) string { return filepath.Join(scratch, "river") }

func (r river) install(ctx context.Context, db *database) error {
	return db.installJobs(ctx, r.command(db, "migrate"), "river")
}

func (r river) worker(db *database) *exec.Cmd { return r.command(db, "work") }
func (river) ready() string                   { return weWork }

func (river) command(db *database, what string) *exec.Cmd {
	cmd := exec.Command(riverProgram(db.scratch), what)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + db.hostURL(), countEnv + "=" + countRow}
	return cmd
}

// countRow counts one row.
const countRow = `
	WITH totals AS (
		INSERT INTO usage_totals AS t (user_id, period_start, tokens_used)
		VALUES ($1::uuid, date_trunc('month', $2::timestamptz, 'UTC'), $3::bigint)
		ON CONFLICT (user_id, period_start) DO UPDATE SET tokens_used = t.tokens_used + excluded.tokens_used
		RETURNING user_id, period_start, tokens_used
	), ` + tellCrossings + `
	SELECT count(*) FROM told`

func (river) drained(ctx context.Context, db *database) (bool, error) {
	return db.worked(ctx, `FROM river_job WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled')`)
}
