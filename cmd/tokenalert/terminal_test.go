package main

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/term"
)

// terminal is a terminal with a person's command on it: what it shows is what
// an emulator makes of the bytes.
type terminal struct {
	t        *testing.T
	cmd      *exec.Cmd
	master   *os.File
	slave    *os.File
	before   *term.State // of the line, before the command had it
	emulator vt10x.Terminal
	ended    chan struct{}

	mu      sync.Mutex
	written bytes.Buffer
}

// startOnTerminal starts the binary on a terminal of its own.
func startOnTerminal(t *testing.T, columns, rows int, environment []string, args ...string) *terminal {
	t.Helper()
	master, slave, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(master, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)}))
	before, err := term.GetState(int(slave.Fd()))
	require.NoError(t, err)
	tt := &terminal{
		t: t, master: master, slave: slave, before: before, ended: make(chan struct{}),
		emulator: vt10x.New(vt10x.WithSize(columns, rows)),
		cmd:      exec.Command(binaryPath(t), args...),
	}
	tt.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(), "TERM=xterm-256color"}, environment...)
	tt.cmd.Stdin, tt.cmd.Stdout, tt.cmd.Stderr = slave, slave, slave
	tt.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, tt.cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		chunk := make([]byte, 4096)
		for {
			n, err := master.Read(chunk)
			if err != nil {
				return
			}
			tt.mu.Lock()
			tt.written.Write(chunk[:n])
			_, _ = tt.emulator.Write(chunk[:n])
			tt.mu.Unlock()
		}
	}()
	go func() {
		_ = tt.cmd.Wait() // the status is in ProcessState
		close(tt.ended)
	}()
	t.Cleanup(func() {
		_ = tt.cmd.Process.Kill() // fails where it has ended
		<-tt.ended
		_ = slave.Close()
		_ = master.Close()
		<-read
		if t.Failed() {
			t.Logf("%v left on the terminal\n%s", args, tt.emulator.String())
		}
	})
	return tt
}

// page is what can be seen.
func (tt *terminal) page() string {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tt.emulator.String()
}

func (tt *terminal) all() string {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tt.written.String()
}

func (tt *terminal) awaitPage(text string) {
	tt.t.Helper()
	eventually(tt.t, func() bool { return strings.Contains(tt.page(), text) || tt.hasEnded() }, "not on the page: "+text)
	require.Contains(tt.t, tt.page(), text)
}

func (tt *terminal) hasEnded() bool {
	select {
	case <-tt.ended:
		return true
	default:
		return false
	}
}

func (tt *terminal) typeKeys(keys string) {
	tt.t.Helper()
	_, err := tt.master.WriteString(keys)
	require.NoError(tt.t, err)
}

func (tt *terminal) resize(columns, rows int) {
	tt.t.Helper()
	tt.mu.Lock()
	tt.emulator.Resize(columns, rows)
	tt.mu.Unlock()
	require.NoError(tt.t, pty.Setsize(tt.master, &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)}))
}

// wait waits for the end and returns the exit status.
func (tt *terminal) wait() int {
	tt.t.Helper()
	eventually(tt.t, tt.hasEnded, "it does not end")
	return tt.cmd.ProcessState.ExitCode()
}

// drawn waits until a page is drawn.
func (tt *terminal) drawn() {
	tt.t.Helper()
	eventually(tt.t, func() bool { return tt.mode(vt10x.ModeAltScreen) || tt.hasEnded() }, "nothing is drawn")
}

func (tt *terminal) mode(flag vt10x.ModeFlag) bool {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tt.emulator.Mode()&flag != 0
}

// restored asserts that the terminal is as it was found.
func (tt *terminal) restored() {
	tt.t.Helper()
	eventually(tt.t, func() bool { return !tt.mode(vt10x.ModeAltScreen) }, "the page is still up")
	tt.mu.Lock()
	assert.True(tt.t, tt.emulator.CursorVisible(), "the cursor is hidden")
	tt.mu.Unlock()
	after, err := term.GetState(int(tt.slave.Fd()))
	require.NoError(tt.t, err)
	assert.Equal(tt.t, tt.before, after, "the line's settings: echo, line by line")
}

func TestDemoDraws(t *testing.T) {
	t.Parallel()
	tt := startOnTerminal(t, 110, 36, nil, "demo", "--for", "15s", "--rate", "200", "--users", "5")
	tt.drawn()
	tt.awaitPage("100,000")
	tt.awaitPage("after the commit")
	tt.awaitPage("demo-worker since")
	for _, says := range []string{"Ana 1", "█", " told", "bell", "p99", "last tick", "q ends it"} {
		assert.Contains(t, tt.page(), says)
	}
	assert.Contains(t, tt.all(), "\x1b[38;5;", "no colours")

	tt.resize(64, 20)
	eventually(t, func() bool {
		lines := strings.Split(strings.TrimRight(tt.page(), "\n"), "\n")
		return len(lines) <= 20 && strings.Contains(lines[0], "tokenalert") && strings.Contains(tt.page(), "q ends it")
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
		end    func(*terminal)
		status int
	}{
		{"q", func(tt *terminal) { tt.typeKeys("q") }, 0},
		{"Ctrl-C", func(tt *terminal) { tt.typeKeys("\x03") }, 0},
		{"SIGTERM", func(tt *terminal) { _ = tt.cmd.Process.Signal(syscall.SIGTERM) }, 0},
		{"SIGHUP", func(tt *terminal) { _ = tt.cmd.Process.Signal(syscall.SIGHUP) }, 0},
		{"SIGQUIT", func(tt *terminal) { _ = tt.cmd.Process.Signal(syscall.SIGQUIT) }, 0},
		{"the server dies", func(tt *terminal) { killServers(tt.t, tt.cmd.Process.Pid) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			demo := startOnTerminal(t, 100, 30, nil, "demo", "--for", "10m", "--users", "2")
			demo.drawn()
			demo.awaitPage("demo-worker since")
			tt.end(demo)
			assert.Equal(t, tt.status, demo.wait())
			demo.restored()
		})
	}
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
		assert.NotContains(t, tt.all(), "\x1b[38;")
		assert.NotContains(t, tt.all(), "\x1b[48;")
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
			assert.NotContains(t, tt.all(), "\x1b", "control sequences")
			tt.restored()
		})
	}
}
