package image

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/child"
	"tokenalert/internal/host"
	"tokenalert/internal/manifest"
	"tokenalert/internal/pgtest"
	"tokenalert/migrations"
	"tokenalert/worker"
)

// within bounds how long a worker runs until it has told somebody. Only a test
// that fails waits so long.
const within = time.Minute

// bundle is a folder that runc makes a container of.
type bundle struct {
	folder string
	config v1.ImageConfig
}

// runs runs the image as the manifests do: as its account, without privileges,
// on a root that cannot be written to. Its network is the machine's.
func runs(t *testing.T, config v1.ImageConfig, program file) {
	t.Helper()
	b := bundle{folder: t.TempDir(), config: config}
	for _, folder := range []string{"rootfs", "etc/tokenalert"} {
		require.NoError(t, os.MkdirAll(filepath.Join(b.folder, folder), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(b.folder, "rootfs", "tokenalert"), program.content, program.FileInfo().Mode()))

	assert.Equal(t, says(t, program), run(t, b.container(t, nil, "version")))
	assert.Regexp(t, `(?m)^TOKENALERT_HTTP_ADDRESS *=? *:8080$`, run(t, b.container(t, nil, "run", "--print-config")))

	db := pgtest.StartTCPServer(t).New(t, pgtest.Host(host.CMS))
	_, err := db.Conn(t).Exec(t.Context(), "CREATE ROLE tokenalert LOGIN")
	require.NoError(t, err)
	pod := b.pod(t, map[string]map[string]string{
		"tokenalert-owner": {"database-url": db.TCPURL(pgtest.Owner)},
		"tokenalert":       {"database-url": db.TCPURL("tokenalert")},
	})
	for _, c := range pod.Template.Spec.InitContainers {
		environment, err := pod.Environment(c)
		require.NoError(t, err)
		run(t, b.container(t, environment, c.Args...))
	}
	b.tells(t, db, pod)
}

// emulated runs the program of an image for another machine, and no more of it.
func emulated(t *testing.T, program file, emulator string) {
	t.Helper()
	qemu, err := exec.LookPath(emulator)
	if err != nil {
		t.Skip("SKIPPED: " + emulator + " is not here to run it (on Debian and Ubuntu: qemu-user-static)")
	}
	path := filepath.Join(t.TempDir(), "tokenalert")
	require.NoError(t, os.WriteFile(path, program.content, 0o755))
	assert.Equal(t, says(t, program), run(t, exec.CommandContext(t.Context(), qemu, path, "version")))
}

// says is what tokenalert version is to say.
func says(t *testing.T, program file) string {
	t.Helper()
	built, err := buildinfo.Read(bytes.NewReader(program.content))
	require.NoError(t, err)
	return fmt.Sprintf("tokenalert %s (commit %s, schema %d, %s)\n", version, commit, migrations.Version(), built.GoVersion)
}

// pod reads that of deploy/base, whose accounts and ports are to be the image's,
// and mounts its Secrets for the image's account.
func (b bundle) pod(t *testing.T, secrets map[string]map[string]string) *manifest.Pod {
	t.Helper()
	d, err := manifest.Read("../base")
	require.NoError(t, err)
	spec := d.Template.Spec
	account := fmt.Sprintf("%d:%d", spec.SecurityContext.RunAsUser, spec.SecurityContext.RunAsGroup)
	assert.Equal(t, account, b.config.User)
	require.Len(t, spec.Containers, 1)
	require.Len(t, spec.Containers[0].Ports, 1)
	assert.Contains(t, b.config.ExposedPorts, fmt.Sprintf("%d/tcp", spec.Containers[0].Ports[0].ContainerPort))
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		assert.Empty(t, c.Command, "%s is not begun by the image's entrypoint", c.Name)
	}

	pod := &manifest.Pod{Deployment: d, Name: "tokenalert-0", Root: b.folder, Secrets: secrets}
	require.NoError(t, pod.Mount())
	require.NoError(t, filepath.WalkDir(filepath.Join(b.folder, "etc"), func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, spec.SecurityContext.RunAsUser, spec.SecurityContext.RunAsGroup))
	}))
	pod.Root = "/"
	return pod
}

// tells runs the pod's worker until it has told somebody, looks at the
// process, and stops it.
func (b bundle) tells(t *testing.T, db *pgtest.DB, pod *manifest.Pod) {
	t.Helper()
	c := pod.Template.Spec.Containers[0]
	environment, err := pod.Environment(c)
	require.NoError(t, err)
	cmd := b.container(t, append(environment, "TOKENALERT_HTTP_ADDRESS=127.0.0.1:0"), c.Args...)
	stdout, writer, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _ = stdout.Close() }()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = writer, &stderr
	process, err := child.Start(cmd, syscall.SIGTERM) // which runc passes on
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	t.Cleanup(func() {
		_ = b.runc(context.Background(), "delete", "--force", "tokenalert").Run() // fails where it has ended
		<-process.Done
	})
	late := time.AfterFunc(within, func() { _ = b.runc(context.Background(), "kill", "tokenalert", "KILL").Run() })
	defer late.Stop()
	lines := bufio.NewScanner(stdout)
	await := func(event worker.EventName) map[string]any {
		t.Helper()
		for lines.Scan() {
			var line map[string]any
			require.NoError(t, json.Unmarshal(lines.Bytes(), &line))
			if line["event"] == string(event) {
				return line
			}
		}
		require.FailNow(t, "it ended, or took too long", "no %s; it wrote to stderr: %s", event, &stderr)
		return nil
	}

	port := await(worker.EventHTTPListening)["port"]
	await(worker.EventTickCompleted)
	conn := db.ConnAs(t, pgtest.Owner)
	org, err := host.NewOrganization(t.Context(), conn, "Example")
	require.NoError(t, err)
	limit := 1000
	user, err := host.NewUser(t.Context(), conn, host.User{Organization: org, Limit: &limit})
	require.NoError(t, err)
	require.NoError(t, host.LogUsage(t.Context(), conn, user, org, 1000))
	assert.Equal(t, user.String(), await(worker.EventAlertSent)["user"])

	for _, path := range []string{c.Startup.HTTPGet.Path, c.Liveness.HTTPGet.Path, c.Readiness.HTTPGet.Path, "/metrics"} {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%v%s", port, path))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Equal(t, http.StatusOK, response.StatusCode, path)
	}

	var state struct{ Pid int }
	require.NoError(t, json.Unmarshal([]byte(run(t, b.runc(t.Context(), "state", "tokenalert"))), &state))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", state.Pid))
	require.NoError(t, err)
	for _, line := range []string{
		`Uid:(\s65532){4}`, `Gid:(\s65532){4}`, `Groups:\s*`, `CapPrm:\s0+`, `CapBnd:\s0+`, `NoNewPrivs:\s1`,
	} {
		assert.Regexp(t, `(?m)^`+line+`$`, string(status))
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", state.Pid))
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^\d+ \d+ \S+ \S+ / ro,`, string(mounts))

	run(t, b.runc(t.Context(), "kill", "tokenalert", "TERM"))
	await(worker.EventWorkerStopped)
	<-process.Done
	require.NoError(t, process.Err)
	assert.Empty(t, stderr.String())
}

// container runs the image with these variables, and arguments in place of its
// own if there are any.
func (b bundle) container(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	if len(args) == 0 {
		args = b.config.Cmd
	}
	path := filepath.Join(b.folder, "config.json")
	require.NoError(t, os.RemoveAll(path))
	run(t, b.runc(t.Context(), "spec", "--bundle", b.folder))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var spec specs.Spec // with a read-only root and no new privileges
	require.NoError(t, json.Unmarshal(text, &spec))
	_, err = fmt.Sscanf(b.config.User, "%d:%d", &spec.Process.User.UID, &spec.Process.User.GID)
	require.NoError(t, err)
	spec.Process.Terminal = false
	spec.Process.Args = slices.Concat(b.config.Entrypoint, args)
	spec.Process.Env = slices.Concat(b.config.Env, env)
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Type: "bind", Source: filepath.Join(b.folder, "etc/tokenalert"), Destination: "/etc/tokenalert", Options: []string{"rbind", "ro"},
	})
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	text, err = json.Marshal(spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return b.runc(t.Context(), "run", "--bundle", b.folder, "tokenalert")
}

func (b bundle) runc(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "runc", append([]string{"--root", filepath.Join(b.folder, "state")}, args...)...)
}
