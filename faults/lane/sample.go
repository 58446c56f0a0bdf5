package lane

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Sample is what the workers and our tables take at a moment.
type Sample struct {
	After       time.Duration // the beginning
	Workers     []WorkerSample
	Connections int            // of all workers
	Tables      map[string]int // bytes, indexes included
	Rows        int            // committed so far
}

// A WorkerSample is what one worker takes.
type WorkerSample struct {
	Name       string
	Resident   int // bytes
	Goroutines int // 0: it did not answer just then
}

// sample samples until ctx ends.
func (s *site) sample(ctx context.Context) {
	if s.lane.o.Sample == nil {
		return
	}
	began := time.Now()
	for pause(ctx, s.lane.o.SampleEvery) {
		sample := Sample{After: time.Since(began), Tables: map[string]int{}}
		for _, w := range s.slots {
			sample.Workers = append(sample.Workers, w.sample(ctx))
		}
		s.mu.Lock()
		for _, c := range s.changes {
			sample.Rows += len(c.Insert)
		}
		s.mu.Unlock()
		rows, err := s.control.Query(ctx, `SELECT c.relname, pg_total_relation_size(c.oid),
			(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1)
			FROM pg_class c WHERE c.relnamespace = 'tokenalert'::regnamespace AND c.relkind = 'r'`, workerRole)
		if err != nil {
			continue // the server is down just then
		}
		for rows.Next() {
			var name string
			var size int
			if rows.Scan(&name, &size, &sample.Connections) == nil {
				sample.Tables[name] = size
			}
		}
		if rows.Err() == nil {
			s.lane.o.Sample(sample)
		}
	}
}

func (s *slot) sample(ctx context.Context) WorkerSample {
	s.mu.Lock()
	w := WorkerSample{Name: s.process.name, Resident: resident(s.process.Cmd.Process.Pid)}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.httpAddress()+"/metrics", nil)
	if err != nil {
		return w
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return w
	}
	defer func() { _ = response.Body.Close() }() // it was read
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if n, found := strings.CutPrefix(lines.Text(), "go_goroutines "); found {
			w.Goroutines, _ = strconv.Atoi(n)
		}
	}
	return w
}

// resident is a process's resident set in bytes (proc(5), statm), 0 where that
// cannot be read.
func resident(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	if fields := strings.Fields(string(text)); len(fields) > 1 {
		pages, _ := strconv.Atoi(fields[1])
		return pages * os.Getpagesize()
	}
	return 0
}
