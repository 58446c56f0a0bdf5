package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// processes are the worker and its children; none where there is no /proc.
func (db *database) processes() []int {
	if db.process == nil {
		return nil
	}
	pid := db.process.Cmd.Process.Pid
	pids := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is well-formed
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread that has ended has none
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// ticksPerSecond is in which part of a second /proc counts: USER_HZ, which is
// 100 on every platform that Go has Linux for.
const ticksPerSecond = 100

// cpuSeconds is what the worker and its children have used (proc(5), utime and
// stime).
func (db *database) cpuSeconds() float64 {
	ticks := 0
	for _, pid := range db.processes() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // unknown
		_, numbers, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(numbers); len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11]) // digits
			system, _ := strconv.Atoi(fields[12])
			ticks += user + system
		}
	}
	return float64(ticks) / ticksPerSecond
}

// kilobytes adds up what /proc says of the worker's and its children's memory;
// 0: unknown. (The child's rusage would count the parent that forked it.)
func (db *database) kilobytes(field string) int64 {
	var sum int64
	line := regexp.MustCompile(field + `:\s*(\d+) kB`)
	for _, pid := range db.processes() {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // unknown
		if m := line.FindSubmatch(text); m != nil {
			kb, _ := strconv.ParseInt(string(m[1]), 10, 64) // digits
			sum += kb
		}
	}
	return sum
}
