package line_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/faults/line"
)

// leftEnv is what a process that has entered believes to have left.
const leftEnv = "LABORATORY_LEFT"

const statusOfEntrant = 7

// enter enters, says so, and ends with a status of its own when it is asked to.
func enter() {
	if err := line.Enter(); err != nil {
		fmt.Println("not entered:", err)
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("entered", line.Inside())
	select {
	case s := <-signals:
		fmt.Println(s)
	case <-time.After(20 * time.Second):
		fmt.Println("nothing was heard")
	}
	os.Exit(statusOfEntrant)
}

func startEntrant(t *testing.T) (*exec.Cmd, *bufio.Reader) {
	if fault := line.NamespaceFault(); fault != "" {
		t.Skip(fault)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), entrantEnv+"=1", leftEnv+"=")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // most have ended
	said := bufio.NewReader(out)
	text, err := said.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "entered true\n", text)
	return cmd, said
}

func TestWhatEntersHearsSignalsAndItsStatusPasses(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, said := startEntrant(t)
		require.NoError(t, cmd.Process.Signal(s))
		text, err := io.ReadAll(said)
		require.NoError(t, err)
		assert.Equal(t, s.String()+"\n", string(text))
		_ = cmd.Wait() // the status is in ProcessState
		assert.Equal(t, statusOfEntrant, cmd.ProcessState.ExitCode())
	}
}

func TestWhatEnteredEndsWithItsParent(t *testing.T) {
	cmd, said := startEntrant(t)
	require.NoError(t, cmd.Process.Kill())
	text, err := io.ReadAll(said) // until it has ended
	require.NoError(t, err)
	assert.Equal(t, "terminated\n", string(text))
	require.Error(t, cmd.Wait())
}

// The machine's own network must stay as it is, whatever the environment says.
func TestTheEnvironmentAloneIsNotBelieved(t *testing.T) {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Skip("network namespaces are Linux's")
	}
	for _, value := range []string{"", "1", here} {
		t.Setenv(leftEnv, value)
		assert.False(t, line.Inside(), "%q", value)
	}
	t.Setenv(leftEnv, "net:[1]")
	assert.True(t, line.Inside())
}

func TestNamespacesOfTheDeadAreSweptAndNoOthers(t *testing.T) {
	if fault := line.NamespaceFault(); fault != "" {
		t.Skip(fault)
	}
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	left := fmt.Sprintf("tokenalert-%d-1", dead.Process.Pid)
	kept := fmt.Sprintf("tokenalert-%d-test", os.Getpid())
	for _, name := range []string{left, kept} {
		require.NoError(t, exec.Command("ip", "netns", "add", name).Run())
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // it may be gone
	}
	startEntrant(t)
	assert.NoFileExists(t, "/run/netns/"+left)
	assert.FileExists(t, "/run/netns/"+kept)
}
