package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"tokenalert/internal/child"
	"tokenalert/internal/module"
)

// What the image is stamped with.
const (
	version = "v9.8.7-test"
	commit  = "0123456789abcdef0123456789abcdef01234567"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// base is the image that the Dockerfile builds in.
const base = "docker.io/library/golang:1.26"

// buildProxy is in the environment of each build, and is to be nowhere after it.
const buildProxy = "http://builder:build-time-password@127.0.0.1:9"

// builder is buildah with a store of its own.
type builder struct {
	command []string
	goroot  string
	modules string // the module cache
}

// newBuilder puts a stand-in for base, which may not be pulled everywhere, into
// a new store. It is empty: the builds are given this machine's programs and
// Go, and its modules in place of a network.
func newBuilder(t *testing.T) builder {
	t.Helper()
	require.Zero(t, os.Geteuid(), "buildah takes root here")
	store := t.TempDir()
	b := builder{command: []string{"buildah", "--storage-driver", "vfs", "--root", store, "--runroot", filepath.Join(store, "run")}}

	run(t, exec.CommandContext(t.Context(), "go", "mod", "download"))
	env := strings.Fields(run(t, exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE", "GOROOT")))
	require.Len(t, env, 2)
	b.modules, b.goroot = env[0], env[1]
	standIn := filepath.Join(t.TempDir(), "Dockerfile")
	require.NoError(t, os.WriteFile(standIn, fmt.Appendf(nil, `FROM scratch
ENV PATH=%s/bin:/usr/bin:/bin GOPATH=/go GOCACHE=/tmp/cache GOPROXY=off GOTOOLCHAIN=local
WORKDIR /tmp
`, b.goroot), 0o600))
	run(t, b.buildah(t, "build", "--platform", "linux/"+runtime.GOARCH, "-t", base, "-f", standIn, filepath.Dir(standIn)))
	return b
}

func (b builder) buildah(t *testing.T, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), b.command[0], append(b.command[1:len(b.command):len(b.command)], args...)...)
}

// build makes the image for a platform. Nothing is kept from one build to the
// next: each compiles all anew.
func (b builder) build(t *testing.T, arch string) image {
	t.Helper()
	flags := []string{"--platform", "linux/" + arch, "--isolation", "chroot", "--pull-never", "--no-cache", "--volume", b.modules + ":/go/pkg/mod:ro"}
	for _, folder := range []string{"/bin", "/lib", "/lib64", "/usr", b.goroot} {
		if _, err := os.Stat(folder); err == nil {
			flags = append(flags, "--volume", folder+":"+folder+":ro")
		}
	}
	build := exec.CommandContext(t.Context(), "make", "image", "VERSION="+version, "COMMIT="+commit,
		"SOURCE_DATE_EPOCH="+strconv.FormatInt(epoch.Unix(), 10),
		"IMAGE_BUILDER="+strings.Join(b.command, " "), "IMAGE_FLAGS="+strings.Join(flags, " "))
	build.Dir = root(t)
	build.Env = append(os.Environ(), "HTTP_PROXY="+buildProxy, "HTTPS_PROXY="+buildProxy)
	run(t, build)

	to := t.TempDir()
	run(t, b.buildah(t, "push", "tokenalert:"+version, "oci:"+to))
	return read(t, to)
}

func root(t *testing.T) string {
	t.Helper()
	root, err := module.Root(t.Context())
	require.NoError(t, err)
	return root
}

// run runs a program to its end and returns what it writes. Asked to terminate,
// make and buildah end what they have begun.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out, errors strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errors
	p, err := child.Start(cmd, syscall.SIGTERM)
	require.NoError(t, err)
	<-p.Done
	require.NoError(t, p.Err, "%v\n%s%s", cmd.Args, &out, &errors)
	return out.String()
}
