package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"tokenalert/faults/lane"
	"tokenalert/faults/plan"
)

// options of a laboratory.
type options struct {
	binary    string
	directory string // results, and a folder for each schedule that failed
	lanes     int
	schedules int    // that must count
	seed      uint64 // the first
	kinds     []plan.FaultKind
	plays     func(*plan.Plan) bool // only these schedules; nil: all
	untilOne  bool                  // stop at the first that fails
	keep      bool
	binDir    string
	progress  io.Writer
}

// A laboratory plays many schedules, several at once.
type laboratory struct {
	options

	mu       sync.Mutex
	next     uint64
	done     map[uint64]bool
	results  []*lane.Result
	counted  int
	file     *os.File
	lastSaid time.Time
	began    time.Time
}

func newRun() *cobra.Command {
	l := &laboratory{options: options{progress: os.Stderr, binDir: os.Getenv("PGTEST_BIN")}}
	var fresh, budgets bool
	var write string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Play schedules and say what came of them",
		Long: `Play schedules: some 3,000 rows each, written by concurrent transactions of every
kind, with corrections, on two or three workers, while four or five faults
happen to them, to their connections and to PostgreSQL. In three of five they
deliver, to receivers that fail as well; in two of five organizations have
budgets. After each the oracle looks at every total, alert, notification and
delivery.

A schedule is a seed. Run it again with --seed N --schedules 1 --keep: the same
operations and faults in the same order, interleaved as it happens. One that
fails leaves its trace, the workers' logs and the data in the directory.

Interrupted, and run again with the same directory, it goes on where it was.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if budgets {
				l.plays = (*plan.Plan).Budgets
			}
			if err := l.prepare(cmd.Context(), fresh); err != nil {
				return err
			}
			if err := l.play(cmd.Context()); err != nil {
				return err
			}
			s := l.summary()
			text := s.text()
			_, _ = fmt.Fprint(cmd.OutOrStdout(), text)
			if err := writeInto(write, "summary", text); err != nil {
				return err
			}
			if s.wrong > 0 {
				return errWrong
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&l.schedules, "schedules", 100, "how many must count")
	f.Uint64Var(&l.seed, "seed", 1, "the first seed")
	f.IntVar(&l.lanes, "lanes", max(2, runtime.NumCPU()*3/2), "how many are played at once, each on a server of its own")
	f.StringVar(&l.directory, "directory", "dist/faults", "where results and failures are kept")
	f.StringVar(&l.binary, "binary", "", "the tokenalert to be judged; empty: built from this tree")
	f.BoolVar(&budgets, "budgets", false, "only schedules in which organizations have budgets")
	f.BoolVar(&l.keep, "keep", false, "keep traces and logs also of what went well")
	f.BoolVar(&fresh, "fresh", false, "begin anew, forgetting the results that the directory has")
	f.StringVar(&write, "write", "", "a Markdown file to write the summary into, between its markers")
	return cmd
}

// prepare reads the results that are there, and builds the binary.
func (l *laboratory) prepare(ctx context.Context, fresh bool) error {
	var err error
	if l.binary == "" {
		l.binary, err = buildInto(ctx, l.directory)
	} else {
		l.binary, err = filepath.Abs(l.binary)
	}
	if err == nil {
		err = os.MkdirAll(l.directory, 0o755)
	}
	if err != nil {
		return err
	}
	l.kinds = lane.Available()
	l.done = map[uint64]bool{}
	file := filepath.Join(l.directory, "results.jsonl")
	id, err := fileID(l.binary)
	if err != nil {
		return err
	}
	if fresh {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if l.file, err = os.OpenFile(file, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644); err != nil {
		return err
	}
	return l.resume(id)
}

// header is the first line of the results: of which binary they are.
type header struct {
	Binary string `json:"binary"` // its SHA-256
}

// resume takes in the results of the same binary.
func (l *laboratory) resume(id string) error {
	lines := bufio.NewScanner(l.file)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return l.record(header{id})
	}
	var h header
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil || h.Binary != id {
		return fmt.Errorf("the results in %s are of another binary: name another --directory, or begin anew with --fresh", l.directory)
	}
	for lines.Scan() {
		var r lane.Result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			continue // cut off when it was killed
		}
		if r.Seed >= l.seed {
			l.add(&r)
		}
	}
	return lines.Err()
}

func (l *laboratory) record(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = l.file.Write(append(text, '\n'))
	return err
}

func (l *laboratory) add(r *lane.Result) {
	l.results = append(l.results, r)
	l.done[r.Seed] = true
	if r.TooSmall == "" || !r.OK() {
		l.counted++
	}
}

// take is the next seed to be played.
func (l *laboratory) take() (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counted >= l.schedules || l.untilOne && l.failed() {
		return 0, false
	}
	if l.next < l.seed {
		l.next = l.seed
	}
	for l.done[l.next] || l.plays != nil && !l.plays(plan.New(l.next, l.kinds)) {
		l.next++
	}
	seed := l.next
	l.next++
	return seed, true
}

func (l *laboratory) failed() bool {
	for _, r := range l.results {
		if !r.OK() {
			return true
		}
	}
	return false
}

// play plays until enough schedules count.
func (l *laboratory) play(ctx context.Context) error {
	l.began = time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range min(l.lanes, l.schedules) {
		group.Go(func() error { return l.playLane(ctx) })
	}
	return errors.Join(group.Wait(), l.file.Close())
}

func (l *laboratory) playLane(ctx context.Context) error {
	seed, more := l.take()
	if !more {
		return nil
	}
	at, err := lane.New(ctx, lane.Options{Binary: l.binary, Directory: l.directory, Keep: l.keep, BinDir: l.binDir})
	if err != nil {
		return err
	}
	for ; more && err == nil; seed, more = l.take() {
		var r *lane.Result
		if r, err = at.Play(ctx, plan.New(seed, l.kinds)); err != nil {
			break
		}
		if err = l.finish(r); err != nil {
			break
		}
	}
	return errors.Join(err, at.Close())
}

// finish records a result, and says how far it is.
func (l *laboratory) finish(r *lane.Result) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(r)
	if !r.OK() {
		_, _ = fmt.Fprintf(l.progress, "seed %d: %d wrong, kept in %s\n", r.Seed, len(r.Faults), filepath.Join(l.directory, fmt.Sprintf("seed-%d", r.Seed)))
		for _, line := range r.Faults[:min(len(r.Faults), 5)] {
			_, _ = fmt.Fprintln(l.progress, "  ", line)
		}
	}
	if now := time.Now(); now.Sub(l.lastSaid) > 5*time.Second {
		l.lastSaid = now
		left := time.Duration(0)
		if played := l.counted; played > 0 {
			left = time.Duration(float64(now.Sub(l.began)) / float64(played) * float64(max(0, l.schedules-l.counted)))
		}
		_, _ = fmt.Fprintf(l.progress, "%d of %d schedules, %s to go\n", l.counted, l.schedules, left.Round(time.Second))
	}
	return l.record(r)
}
