package privatepg

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const eventually = 20 * time.Second

// A process that is killed takes its server along (on Linux), and the next one
// that starts a server removes the directory.
func TestKilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: only Linux tells a child that its parent died")
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), holdEnv+"=1")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	var path string
	var pid int
	_, err = fmt.Sscan(line, &path, &pid)
	require.NoError(t, err)
	require.True(t, runs(pid), "the postmaster")

	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())

	require.Eventually(t, func() bool { return !runs(pid) }, eventually, readyProbe, "the postmaster")
	start(t, Options{})
	assert.NoDirExists(t, path)
}

// runs tells whether a process is alive and not a zombie, which has no command
// line and which only the container's init can remove.
func runs(pid int) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(cmdline) > 0
}

// Where no signal tells a server that its process died, the sweep does.
func TestSweepEndsAnOrphan(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	require.NoError(t, s.dir.server.Close()) // the server has its own
	require.NoError(t, s.dir.owner.Close())
	s.dir.server, s.dir.owner = nil, nil

	reclaim(s.dir.path)

	assert.NoDirExists(t, s.dir.path)
	select {
	case <-s.process.Done:
	case <-time.After(eventually):
		t.Error("the postmaster still runs")
	}
}

func TestSweepKeepsWhatIsInUse(t *testing.T) {
	t.Parallel()
	acc, err := unprivileged()
	require.NoError(t, err)
	s := start(t, Options{})

	newborn, err := os.MkdirTemp("", directoryPrefix)
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(newborn) })
	abandoned, err := os.MkdirTemp("", directoryPrefix)
	require.NoError(t, err)
	old := time.Now().Add(-2 * abandonedAfter)
	require.NoError(t, os.Chtimes(abandoned, old, old))

	sweep(acc)

	assert.DirExists(t, s.dir.path)
	connect(t, s.URL("postgres"))
	assert.DirExists(t, newborn)
	assert.NoDirExists(t, abandoned)
}

func TestSweepDoesNotBelieveStrangers(t *testing.T) {
	t.Parallel()
	acc, err := unprivileged()
	require.NoError(t, err)
	target := t.TempDir()
	assert.True(t, isOurs(target, acc))

	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(target, link))
	assert.False(t, isOurs(link, acc), "a link")

	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(target, 12345, 12345))
		assert.False(t, isOurs(target, acc), "somebody else's")
	}
}
