package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startDemo starts a demo whose temporary files are in a folder of its own.
func startDemo(t *testing.T, args ...string) (demo *process, folder string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: the processes in a folder are looked up in /proc")
	}
	folder, err := os.MkdirTemp("", "demo-") // short, for a socket is in it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755)) // the server may run as another user
	return startProcess(t, []string{"TMPDIR=" + folder}, append([]string{"demo"}, args...)...), folder
}

// servers lists the processes that work in a folder, as all of PostgreSQL's do
// in that of its data.
func servers(t *testing.T, folder string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	var pids []string
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, folder+"/") {
			pids = append(pids, link)
		}
	}
	return pids
}

// traceless asserts that a demo that has ended left nothing.
func traceless(t *testing.T, folder string) {
	t.Helper()
	assert.Empty(t, servers(t, folder), "processes")
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, left, "files")
}

func (p *process) awaitOutput(text string) {
	p.t.Helper()
	eventually(p.t, func() bool { return strings.Contains(p.stdout.String(), text) || p.hasEnded() }, "no output "+text)
	require.Contains(p.t, p.stdout.String(), text)
}

const verdict = "verdict: every total and every alert is right\n"

func TestDemo(t *testing.T) {
	t.Parallel()
	demo, folder := startDemo(t, "--for", "3s", "--rate", "100", "--users", "5")
	demo.awaitOutput("migrated; 5 users")
	assert.NotEmpty(t, servers(t, folder))
	assert.Equal(t, 0, demo.wait())
	assert.Empty(t, demo.stderr.String())
	for _, says := range []string{
		" told: ", "ms after the commit\n", "totals that differ              0 of 5\n",
		"commit to alert, ", "p50 ", "p99 ", verdict,
	} {
		assert.Contains(t, demo.stdout.String(), says)
	}
	traceless(t, folder)
}

func TestDemoEndsWithASignal(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			demo, folder := startDemo(t, "--for", "10m", "--users", "2", "--rate", "200")
			demo.awaitOutput("users with a limit")
			demo.signal(signal)
			assert.Equal(t, 0, demo.wait())
			assert.Contains(t, demo.stdout.String(), verdict)
			traceless(t, folder)
		})
	}
	t.Run("while it starts", func(t *testing.T) {
		t.Parallel()
		demo, folder := startDemo(t)
		eventually(t, func() bool { return len(servers(t, folder)) > 0 }, "no server")
		demo.signal(syscall.SIGINT)
		assert.Equal(t, 1, demo.wait())
		assert.NotContains(t, demo.stdout.String(), "verdict")
		traceless(t, folder)
	})
}

// What has been killed takes its server along, and the next one to start
// removes the directory.
func TestKilledDemoLeavesNoServer(t *testing.T) {
	t.Parallel()
	demo, folder := startDemo(t, "--for", "10m")
	demo.awaitOutput("users with a limit")
	require.NotEmpty(t, servers(t, folder))
	demo.signal(syscall.SIGKILL)
	demo.wait()
	eventually(t, func() bool { return len(servers(t, folder)) == 0 }, "the server goes on without its demo")

	next := startProcess(t, []string{"TMPDIR=" + folder}, "demo", "--for", "100ms", "--users", "1")
	assert.Equal(t, 0, next.wait())
	traceless(t, folder)
}
