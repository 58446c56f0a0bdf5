// Command river is the worker of River in the benchmark. It is a module of its
// own: nothing else here needs River.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// The settings; docs/performance.md says where each comes from.
const (
	maxWorkers    = 2000
	fetchCooldown = 2 * time.Millisecond
	fetchPoll     = 20 * time.Millisecond
	connections   = 16
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "river:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if len(os.Args) > 1 && os.Args[1] == "migrate" {
		return migrate(ctx, pool)
	}
	return work(ctx, pool)
}

// migrate makes River's tables.
func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// usage is a job: one row.
type usage struct {
	UserID    string    `json:"user_id"`
	Tokens    int64     `json:"tokens"`
	CreatedAt time.Time `json:"created_at"`
}

func (usage) Kind() string { return "usage" }

// counter counts a row and completes its job in one transaction.
type counter struct {
	river.WorkerDefaults[usage]
	pool  *pgxpool.Pool
	count string
}

func (c *counter) Work(ctx context.Context, job *river.Job[usage]) error {
	tx, err := c.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // it has committed, or the job is tried again
	if _, err := tx.Exec(ctx, c.count, job.Args.UserID, job.Args.CreatedAt, job.Args.Tokens); err != nil {
		return err
	}
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// work works until ctx ends.
func work(ctx context.Context, pool *pgxpool.Pool) error {
	workers := river.NewWorkers()
	river.AddWorker(workers, &counter{pool: pool, count: os.Getenv("BENCH_COUNT")})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		FetchCooldown: fetchCooldown, FetchPollInterval: fetchPoll,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}},
		Workers: workers,
	})
	if err != nil {
		return err
	}
	// It ends by Stop: what was begun is finished.
	background := context.WithoutCancel(ctx)
	if err := client.Start(background); err != nil {
		return err
	}
	fmt.Println("at work")
	<-ctx.Done()
	return client.Stop(background)
}
