package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/itchyny/gojq/cli"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/module"
	"tokenalert/internal/pgtest"
	"tokenalert/worker"
)

// settleWithin bounds how long a test waits for what must come. It is never
// waited for in full but by a test that fails.
const settleWithin = 30 * time.Second

// What the binary under test is stamped with.
const (
	stampedVersion = "v9.8.7-test"
	stampedCommit  = "0123456789abcdef"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "jq" { // a link to this program, made by TestQuestions
		os.Exit(cli.Run())
	}
	pgtest.Main(m, func() {
		if binary.directory != "" {
			_ = os.RemoveAll(binary.directory)
		}
	})
}

// binary is the command as it is shipped, built when the first test asks.
var binary struct {
	once      sync.Once
	directory string
	err       error
}

func binaryPath(t *testing.T) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.directory, binary.err = os.MkdirTemp("", "tokenalert-test-"); binary.err != nil {
			return
		}
		binary.err = build(filepath.Join(binary.directory, "tokenalert"), stampedVersion)
	})
	require.NoError(t, binary.err)
	return filepath.Join(binary.directory, "tokenalert")
}

// build compiles the command, with flags of go build besides.
func build(to, stamp string, flags ...string) error {
	stamps := "-X main.version=" + stamp + " -X main.commit=" + stampedCommit
	return module.Build(context.Background(), to, append([]string{"-ldflags", stamps}, flags...)...)
}

// process is the binary at work.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	stdout  output
	stderr  output
	ended   chan struct{} // closed when it has ended and all its output was read
	endedAt time.Time     // to be read after ended

	mu    sync.Mutex
	lines []map[string]any // of its JSON log
}

// startProcess starts the binary with these variables and no others but where
// programs and temporary files are. It is killed when the test ends, where it
// still runs.
func startProcess(t *testing.T, environment []string, args ...string) *process {
	t.Helper()
	return startBinary(t, binaryPath(t), environment, args...)
}

// startBinary is startProcess for a binary of the test's own.
func startBinary(t *testing.T, path string, environment []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}
	if bin := os.Getenv("PGTEST_BIN"); bin != "" {
		p.cmd.Env[0] = "PATH=" + bin + ":" + os.Getenv("PATH")
	}
	p.cmd.Env = append(p.cmd.Env, environment...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		p.read(stdout)
		_ = p.cmd.Wait() // the status is in ProcessState
		p.endedAt = time.Now()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // fails where it has ended
		<-p.ended
		if t.Failed() {
			t.Logf("%v wrote\n%s\nand to stderr\n%s", args, &p.stdout, &p.stderr)
		}
	})
	return p
}

func (p *process) read(stdout io.Reader) {
	scanner := bufio.NewScanner(stdout)
	for scanner.Scan() {
		_, _ = p.stdout.Write(append(bytes.Clone(scanner.Bytes()), '\n'))
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) == nil {
			p.mu.Lock()
			p.lines = append(p.lines, line)
			p.mu.Unlock()
		}
	}
}

// log returns the log lines so far of an event, or of all where it is empty.
func (p *process) log(event worker.EventName) []map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lines []map[string]any
	for _, l := range p.lines {
		if event == "" || l["event"] == string(event) {
			lines = append(lines, l)
		}
	}
	return lines
}

// await waits for the n-th log line of an event, the first being 1.
func (p *process) await(event worker.EventName, n int) map[string]any {
	p.t.Helper()
	eventually(p.t, func() bool { return len(p.log(event)) >= n || p.hasEnded() }, "no log line "+string(event))
	require.GreaterOrEqual(p.t, len(p.log(event)), n, "it ended without a log line %s", event)
	return p.log(event)[n-1]
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// wait waits for the end and returns the exit status.
func (p *process) wait() int {
	p.t.Helper()
	eventually(p.t, p.hasEnded, "the process does not end")
	return p.cmd.ProcessState.ExitCode()
}

// terminate stops it as an orchestrator does, and asserts that it went well.
func (p *process) terminate() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.stopped()
}

// stopped waits for the end of one that was told to, and asserts that it went
// well.
func (p *process) stopped() {
	p.t.Helper()
	require.Equal(p.t, 0, p.wait(), "exit status")
	require.Empty(p.t, p.stderr.String())
	all := p.log("")
	require.Equal(p.t, string(worker.EventWorkerStopped), all[len(all)-1]["event"], "the last line of the log")
}

// address is where a running worker serves HTTP.
func (p *process) address() string {
	p.t.Helper()
	return fmt.Sprintf("127.0.0.1:%v", p.await(worker.EventHTTPListening, 1)["port"])
}

// get asks an HTTP endpoint of a running worker.
func (p *process) get(path string) (status int, body string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), settleWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address()+path, nil)
	require.NoError(p.t, err)
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	return response.StatusCode, string(text)
}

// metric returns a series of whole numbers, named with its labels.
func (p *process) metric(series string) int {
	p.t.Helper()
	_, body := p.get("/metrics")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\d+)$`).FindStringSubmatch(body)
	require.NotNil(p.t, found, body)
	n, err := strconv.Atoi(found[1])
	require.NoError(p.t, err)
	return n
}

// awaitReady waits until /readyz answers 200, and returns what it says.
func (p *process) awaitReady() string {
	p.t.Helper()
	var body string
	eventually(p.t, func() bool {
		status, text := p.get("/readyz")
		body = text
		return status == http.StatusOK
	}, "not ready")
	return body
}

// typed runs a command that ends by itself and returns its status and output.
func typed(t *testing.T, environment []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := startProcess(t, environment, args...)
	status = p.wait()
	return status, p.stdout.String(), p.stderr.String()
}

// eventually waits for a condition.
func eventually(t *testing.T, condition func() bool, message string) {
	t.Helper()
	for deadline := time.Now().Add(settleWithin); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, message)
		}
	}
}
