package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/internal/transcript"
)

var update = flag.Bool("update", false, "write README.md's settings, and docs/commands.md")

const readme = "../../README.md"

func TestReadmeSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	var table strings.Builder
	table.WriteString("-->\n\n| Setting | Default | |\n|---|---|---|\n")
	for _, s := range (settings{}).all() {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", s.Name, s.Default, s.Help)
	}
	table.WriteString("\n")
	before, rest, found := strings.Cut(string(text), "<!-- settings:")
	require.True(t, found)
	comment, rest, found := strings.Cut(rest, "-->")
	require.True(t, found)
	_, after, found := strings.Cut(rest, "<!-- end of settings -->")
	require.True(t, found)
	want := before + "<!-- settings:" + comment + table.String() + "<!-- end of settings -->" + after
	if *update {
		require.NoError(t, os.WriteFile(readme, []byte(want), 0o644))
		return
	}
	assert.Equal(t, want, string(text), "README.md lists other settings: go test ./cmd/tokenalert -run TestReadmeSettings -update")
}

// TestGuaranteesNameTests holds docs/guarantees.md to naming tests that exist.
func TestGuaranteesNameTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guarantees.md")
	require.NoError(t, err)
	var sources bytes.Buffer
	for _, pattern := range []string{"../../*/*_test.go", "../../*/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			sources.Write(source)
		}
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	assert.NotEmpty(t, names)
	for _, name := range names {
		if !bytes.Contains(sources.Bytes(), []byte("func "+name[1]+"(")) {
			t.Errorf("docs/guarantees.md names %s, which is not there", name[1])
		}
	}
}

// TestReadmeCommands types what the README shows, line by line, into a shell,
// as the owner of a database with the host's tables. What .ci/run types itself
// is left out.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("SKIPPED: the README's commands need psql")
	}
	in := pgtest.StartServer(t, nil)
	db := in.New(t, pgtest.Host(host.CMSWithTrigger))
	_, err := db.Conn(t).Exec(t.Context(), "ALTER ROLE "+pgtest.Owner+" CREATEROLE")
	require.NoError(t, err)
	bin := t.TempDir()
	environment := append(os.Environ(), "GOBIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"),
		"DATABASE_URL="+db.OwnerURL(), "WORKER_DATABASE_URL="+db.URLAs("tokenalert"), "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0")

	byCI := []string{"go run ./cmd/tokenalert demo", "go test ./..."}
	typed := 0
	for _, line := range commands(t) {
		if line == byCI[0] || line == byCI[1] {
			continue
		}
		typed++
		if strings.HasSuffix(line, "tokenalert run") {
			startUntilItLeads(t, line, environment)
			p := platformOn(t, db)
			p.exec("UPDATE users SET email = 'ana@example.com' WHERE id = $1", p.user(1000))
			environment = append(environment, "ORGANIZATION="+p.org.String())
			continue
		}
		shell := exec.CommandContext(t.Context(), "sh", "-euc", line)
		shell.Dir, shell.Env = filepath.Dir(readme), environment
		out, err := shell.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, out)
	}
	assert.Greater(t, typed, 9)
}

// TestQuickstart types docs/quickstart.md, on a server of its own.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("SKIPPED: the quickstart needs psql")
	}
	text, err := os.ReadFile("../../docs/quickstart.md")
	require.NoError(t, err)
	page := string(text)
	server := pgtest.StartServer(t, nil).Server()
	if server.Version() < 150000 {
		t.Skip("the doctor of the page finds nothing to do, and warns of what everybody may do in the schema public before PostgreSQL 15")
	}
	for shown, here := range map[string]string{
		"su postgres -c psql": `psql "` + server.URL("postgres") + `"`,
		"postgres://platform:first-secret@localhost/platform":    "'" + server.URLAs("platform", "platform") + "'",
		"postgres://tokenalert:second-secret@localhost/platform": "'" + server.URLAs("tokenalert", "platform") + "'",
		"worker.log": filepath.Join(t.TempDir(), "worker.log"),
	} {
		require.Contains(t, page, shown)
		page = strings.ReplaceAll(page, shown, here)
	}
	bin := t.TempDir()
	typing, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	played, err := transcript.Play(typing, page, filepath.Dir(readme),
		append(os.Environ(), "GOBIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"), "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0"))
	require.NoError(t, err)
	var answers strings.Builder
	for _, b := range played {
		answers.WriteString(b.Answer)
	}
	for _, says := range []string{"85.0% of your limit of 100,000", "alert.sent", "worker.stopped"} {
		assert.Contains(t, answers.String(), says)
	}
}

// commands are the lines of the README's shell blocks.
func commands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	var lines []string
	for _, block := range strings.Split(string(text), "```sh\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		lines = append(lines, strings.Split(strings.TrimSpace(block), "\n")...)
	}
	return lines
}

// startUntilItLeads runs a worker beside what is typed next, and stops it as
// Ctrl-C does when the test ends.
func startUntilItLeads(t *testing.T, line string, environment []string) {
	t.Helper()
	var out output
	shell := exec.Command("sh", "-euc", "trap : INT; "+line) // the shell stays to tell the status
	shell.Dir, shell.Env, shell.Stdout, shell.Stderr = filepath.Dir(readme), environment, &out, &out
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, shell.Start())
	t.Cleanup(func() {
		assert.NoError(t, syscall.Kill(-shell.Process.Pid, syscall.SIGINT))
		assert.NoError(t, shell.Wait(), "%s", &out)
	})
	require.Eventually(t, func() bool { return strings.Contains(out.String(), `"leader.acquired"`) }, 20*time.Second, 10*time.Millisecond, "%s", &out)
}

// output may be written to and read at once.
type output struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String()
}
