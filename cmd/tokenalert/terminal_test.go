package main

import (
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/terminal"
)

// screenful is the binary on a terminal.
type screenful struct {
	*terminal.Terminal
	t *testing.T
}

func startOnTerminal(t *testing.T, columns, rows int, environment []string, args ...string) *screenful {
	t.Helper()
	cmd := exec.Command(binaryPath(t), args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(), "TERM=xterm-256color"}, environment...)
	if bin := os.Getenv("PGTEST_BIN"); bin != "" {
		cmd.Env[0] = "PATH=" + bin + ":" + os.Getenv("PATH")
	}
	started, err := terminal.Start(cmd, columns, rows)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = started.Close()
		if t.Failed() {
			t.Logf("%v left on the terminal\n%s", args, started.Page())
		}
	})
	return &screenful{started, t}
}

func (s *screenful) awaitPage(text string) {
	s.t.Helper()
	eventually(s.t, func() bool { return strings.Contains(s.Page(), text) || s.hasEnded() }, "not on the page: "+text)
	eventually(s.t, func() bool { return strings.Contains(s.Page(), text) }, "it ended, and not on the page: "+text)
}

func (s *screenful) hasEnded() bool {
	select {
	case <-s.Ended():
		return true
	default:
		return false
	}
}

func (s *screenful) typeKeys(keys string) {
	s.t.Helper()
	require.NoError(s.t, s.Type(keys))
}

func (s *screenful) resize(columns, rows int) {
	s.t.Helper()
	require.NoError(s.t, s.Resize(columns, rows))
}

// wait waits for the end and returns the exit status.
func (s *screenful) wait() int {
	s.t.Helper()
	eventually(s.t, s.hasEnded, "it does not end")
	return s.Cmd.ProcessState.ExitCode()
}

// drawn waits until a page is drawn.
func (s *screenful) drawn() {
	s.t.Helper()
	eventually(s.t, func() bool { return s.Drawn() || s.hasEnded() }, "nothing is drawn")
}

// restored waits until the terminal has read all and is as it was found.
func (s *screenful) restored() {
	s.t.Helper()
	var err error
	eventually(s.t, func() bool { err = s.Restored(); return err == nil }, "the terminal is not restored")
	assert.NoError(s.t, err)
}

func TestDemoDraws(t *testing.T) {
	t.Parallel()
	tt := startOnTerminal(t, 110, 36, nil, "demo", "--for", "15s", "--rate", "200", "--users", "5")
	tt.drawn()
	tt.awaitPage("100,000")
	tt.awaitPage("after the commit")
	tt.awaitPage("demo-worker since")
	for _, says := range []string{"Ana ", "█", " told", "bell", "p99", "last tick", "q ends it"} {
		assert.Contains(t, tt.Page(), says)
	}
	assert.Contains(t, tt.Written(), "\x1b[38;5;", "no colours")

	tt.resize(64, 20)
	eventually(t, func() bool {
		lines := strings.Split(strings.TrimRight(tt.Page(), "\n"), "\n")
		return len(lines) <= 20 && strings.Contains(lines[0], "tokenalert") && strings.Contains(tt.Page(), "q ends it")
	}, "the page does not fit the terminal")
	tt.resize(40, 6) // nothing fits, and nothing breaks
	tt.resize(110, 40)
	tt.awaitPage("q ends it")

	tt.typeKeys("q")
	assert.Equal(t, 0, tt.wait())
	tt.restored()
	tt.awaitPage("verdict: every total and every alert is right")
	tt.awaitPage("totals that differ              0 of 5")
}

// Whatever ends it, the terminal is as it was.
func TestTheTerminalIsRestored(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		end    func(*screenful)
		status int
	}{
		{"q", func(tt *screenful) { tt.typeKeys("q") }, 0},
		{"Ctrl-C", func(tt *screenful) { tt.typeKeys("\x03") }, 0},
		{"SIGTERM", func(tt *screenful) { _ = tt.Cmd.Process.Signal(syscall.SIGTERM) }, 0},
		{"SIGHUP", func(tt *screenful) { _ = tt.Cmd.Process.Signal(syscall.SIGHUP) }, 0},
		{"SIGQUIT", func(tt *screenful) { _ = tt.Cmd.Process.Signal(syscall.SIGQUIT) }, 0},
		{"the server dies", func(tt *screenful) { killServers(tt.t, tt.Cmd.Process.Pid) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.name == "SIGHUP" && signal.Ignored(syscall.SIGHUP) {
				t.Skip("SIGHUP is ignored here, as under nohup, and so by what is started")
			}
			demo := startOnTerminal(t, 100, 30, nil, "demo", "--for", "10m", "--users", "2")
			demo.drawn()
			demo.awaitPage("demo-worker since")
			tt.end(demo)
			assert.Equal(t, tt.status, demo.wait())
			demo.restored()
		})
	}
}

// The second signal ends it at once, wherever the first has brought it.
func TestTheTerminalIsRestoredByTheSecondSignal(t *testing.T) {
	t.Parallel()
	demo := startOnTerminal(t, 100, 30, nil, "demo", "--for", "10m", "--users", "2")
	demo.drawn()
	demo.awaitPage("demo-worker since")
	require.NoError(t, demo.Cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, demo.Cmd.Process.Signal(syscall.SIGINT))
	assert.Contains(t, []int{0, 128 + int(syscall.SIGINT), 128 + int(syscall.SIGTERM)}, demo.wait())
	demo.restored()
}

// killServers kills the PostgreSQL that a demo has started.
func killServers(t *testing.T, parent int) {
	t.Helper()
	out, err := exec.Command("pgrep", "-x", "-P", strconv.Itoa(parent), "postgres").Output()
	require.NoError(t, err)
	for pid := range strings.Lines(string(out)) {
		require.NoError(t, exec.Command("kill", "-9", strings.TrimSpace(pid)).Run())
	}
}

func TestPlainWhereColoursAreNotWanted(t *testing.T) {
	t.Parallel()
	t.Run("NO_COLOR", func(t *testing.T) {
		t.Parallel()
		tt := startOnTerminal(t, 100, 30, []string{"NO_COLOR=1"}, "demo", "--for", "8s", "--users", "2", "--rate", "200")
		tt.awaitPage("after the commit")
		tt.typeKeys("q")
		assert.Equal(t, 0, tt.wait())
		tt.restored()
		assert.NotContains(t, tt.Written(), "\x1b[38;")
		assert.NotContains(t, tt.Written(), "\x1b[48;")
	})
	for name, environment := range map[string][]string{"TERM=dumb": {"TERM=dumb"}, "--lines": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"demo", "--for", "1s", "--users", "2", "--rate", "100"}
			if environment == nil {
				args = append(args, name)
			}
			tt := startOnTerminal(t, 100, 30, environment, args...)
			assert.Equal(t, 0, tt.wait())
			tt.awaitPage("verdict: every total")
			assert.NotContains(t, tt.Written(), "\x1b", "control sequences")
			tt.restored()
		})
	}
}

func TestTheLogHasColoursOnlyWhereTheyAreWanted(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for name, tt := range map[string]struct {
		environment []string
		coloured    bool
	}{
		"colours":  {nil, true},
		"NO_COLOR": {[]string{"NO_COLOR=1"}, false},
		"dumb":     {[]string{"TERM=dumb"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := startOnTerminal(t, 120, 30, append(tt.environment, runEnvironment(p.db.WorkerURLs())...), "run")
			run.awaitPage("database.connected")
			run.typeKeys("\x03") // Ctrl-C, by the terminal
			assert.Equal(t, 0, run.wait())
			assert.Equal(t, tt.coloured, strings.Contains(run.Written(), "\x1b["), run.Written())
			assert.NotContains(t, run.Page(), "{\"level\"", "JSON is for programs")
		})
	}
}
