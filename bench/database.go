package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"tokenalert/internal/child"
	"tokenalert/internal/demo"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 20 * time.Second
	drainWithin = 10 * time.Minute
	probeEvery  = 5 * time.Millisecond
)

// A database is a clone of a template, on which one competitor works.
type database struct {
	*bench
	entry
	name    string
	control *pgx.Conn // of the host's role
	users   []user
	rows    atomic.Int64 // that have committed

	process  *child.Process // its worker; nil: none, or it is dead
	log      string         // that the worker writes
	logTicks bool           // every tick, for whoever has ticks
	delivers bool           // by a webhook, in vain: nobody listens
}

func (db *database) hostURL() string { return db.server.URLAs(demo.HostRole, db.name) }

// set changes settings for sessions to come, the worker's too.
func (db *database) set(ctx context.Context, to map[string]string) error {
	for name, value := range to {
		if _, err := db.admin.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s SET %s = %s", db.name, name, value)); err != nil {
			return err
		}
	}
	return nil
}

// start starts the worker, where there is one, and returns when it works.
func (db *database) start(ctx context.Context) error {
	if err := db.launch(); err != nil || db.process == nil {
		return err
	}
	return db.await(ctx, readyWithin, func() (bool, error) {
		text, err := os.ReadFile(db.log)
		return bytes.Contains(text, []byte(db.ready())), err
	})
}

// launch starts the worker and does not wait.
func (db *database) launch() error {
	cmd := db.worker(db)
	if cmd == nil {
		return nil
	}
	db.starts++
	db.log = filepath.Join(db.scratch, fmt.Sprintf("%s-%d.log", db.name, db.starts))
	log, err := os.Create(db.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd.Stdout, cmd.Stderr = log, log
	db.process, err = child.Start(cmd, syscall.SIGKILL)
	return err
}

// stop stops the worker, if it runs.
func (db *database) stop() error {
	p := db.process
	if p == nil {
		return nil
	}
	db.process = nil
	_ = p.Cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	if !p.EndsWithin(stopWithin) {
		return fmt.Errorf("the worker of %s did not stop", db.key)
	}
	if p.Err != nil {
		text, _ := os.ReadFile(db.log) // the error says what is wrong
		return fmt.Errorf("the worker of %s: %w\n%s", db.key, p.Err, text[max(0, len(text)-2000):])
	}
	return nil
}

// peakBytes is the most memory that the worker has had resident; 0: unknown.
func (db *database) peakBytes() int64 { return db.kilobytes("VmHWM") * 1024 }

// finished waits until everything is counted and told, and reports whether it was.
func (db *database) finished(ctx context.Context) (bool, error) {
	err := db.await(ctx, drainWithin, func() (bool, error) { return db.drained(ctx, db) })
	if errors.Is(err, errLate) {
		return false, nil
	}
	return err == nil, err
}

var errLate = errors.New("took too long")

// await asks until the answer is yes, while the worker lives.
func (db *database) await(ctx context.Context, within time.Duration, ask func() (bool, error)) error {
	for began := time.Now(); time.Since(began) < within; {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		var ended chan struct{} // never, without a worker
		if db.process != nil {
			ended = db.process.Done
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			return errors.Join(errors.New("the worker ended by itself"), db.stop())
		case <-time.After(probeEvery):
		}
	}
	return errLate
}

// reached asks once how far the host has written by now, a number, and then
// whether the worker has done all up to it ($1), until it has.
func (db *database) reached(ctx context.Context, now, done string) (bool, error) {
	var written int64
	if err := db.control.QueryRow(ctx, now).Scan(&written); err != nil {
		return false, err
	}
	err := db.await(ctx, drainWithin, func() (yes bool, err error) {
		err = db.control.QueryRow(ctx, done, written).Scan(&yes)
		return yes, err
	})
	return err == nil, err
}

// drop takes the database away.
func (db *database) drop(ctx context.Context) error {
	if err := db.stop(); err != nil {
		return err
	}
	if err := db.control.Close(ctx); err != nil {
		return err
	}
	_, err := db.admin.Exec(ctx, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", db.name))
	return err
}
