package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// results are all figures of a run, as they are kept.
type results struct {
	Began      time.Time         `json:"began"`
	Took       time.Duration     `json:"took_ns"`
	CutShort   bool              `json:"cut_short,omitempty"` // it failed or was interrupted
	Form       form              `json:"form"`
	Rounds     int               `json:"rounds_played"`
	Machine    machine           `json:"machine"`
	PostgreSQL string            `json:"postgresql"`
	Versions   map[string]string `json:"versions"` // of what workers are made of
	Absent     map[string]string `json:"absent"`   // who was not played, and why
	Settings   map[string]string `json:"settings"`
	Cost       []costPlay        `json:"cost"`
	Parts      []partPlay        `json:"parts"`
	Latency    []latencyPlay     `json:"latency"`
	CatchUp    []catchUpPlay     `json:"catch_up"`
	Rest       []restPlay        `json:"rest"`
	Starts     []float64         `json:"start_ms"`     // of tokenalert, to its first tick
	Binary     int64             `json:"binary_bytes"` // tokenalert
	Growth     []growthPlay      `json:"growth"`
	Horizon    *horizonPlay      `json:"horizon,omitempty"`
	Verdicts   []verdict         `json:"verdicts"`
}

// A machine is what the run was on. What is not known is empty.
type machine struct {
	Cores    int    `json:"cores"`
	CPU      string `json:"cpu"`
	MemoryMB int    `json:"memory_mb"`
	System   string `json:"system"`
	Go       string `json:"go"`
}

var (
	cpuModel = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)
	memTotal = regexp.MustCompile(`(?m)^MemTotal:\s*(\d+) kB$`)
)

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	cpu, _ := os.ReadFile("/proc/cpuinfo") // there is none on other systems
	if found := cpuModel.FindSubmatch(cpu); found != nil {
		m.CPU = string(found[1])
	}
	memory, _ := os.ReadFile("/proc/meminfo")
	if found := memTotal.FindSubmatch(memory); found != nil {
		_, _ = fmt.Sscan(string(found[1]), &m.MemoryMB) // digits
		m.MemoryMB /= 1024
	}
	return m
}

// told are the server's settings that matter here, whether we set them or not.
var told = []string{
	"autovacuum", "checkpoint_timeout", "effective_cache_size", "fsync", "full_page_writes", "jit", "max_connections", "max_wal_size",
	"shared_buffers", "synchronous_commit", "track_commit_timestamp", "wal_compression", "wal_level", "wal_sync_method", "work_mem",
}

func newResults(ctx context.Context, b *bench) (*results, error) {
	r := &results{Began: time.Now().UTC(), Form: b.form, Machine: thisMachine(), Versions: b.versions, Absent: b.absent, Settings: map[string]string{}}
	if err := b.admin.QueryRow(ctx, "SHOW server_version").Scan(&r.PostgreSQL); err != nil {
		return nil, err
	}
	r.PostgreSQL, _, _ = strings.Cut(r.PostgreSQL, " ") // who packaged it
	for _, name := range told {
		var value string
		if err := b.admin.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return nil, err
		}
		r.Settings[name] = value
	}
	return r, nil
}

func (r *results) file(suffix string) string { return r.Began.Format(time.DateOnly) + suffix }

// write writes everything into a folder.
func (r *results) write(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	files := map[string]string{".json": string(raw) + "\n", ".md": r.markdown("")}
	for _, c := range r.charts() {
		files["-"+c.cell+".svg"] = c.svg()
	}
	for suffix, text := range files {
		if err := os.WriteFile(filepath.Join(folder, r.file(suffix)), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// verdictOf sums the verdicts of one competitor over the rounds.
func (r *results) verdictOf(cell, part string, e entry) string {
	return r.verdicts(e, func(v verdict) bool { return v.Cell == cell && v.Part == part })
}

func (r *results) allVerdicts(e entry) string {
	return r.verdicts(e, func(verdict) bool { return true })
}

func (r *results) verdicts(e entry, of func(verdict) bool) string {
	if e.silent() {
		return "tells nobody"
	}
	var sum verdict
	n := 0
	for _, v := range r.Verdicts {
		if of(v) && v.Competitor == e.key {
			sum = sum.add(v)
			n++
		}
	}
	switch {
	case n == 0:
		return "not checked"
	case sum.right():
		return fmt.Sprintf("all %s right", thousands(float64(sum.Expected)))
	}
	return "**WRONG**: " + sum.String()
}
