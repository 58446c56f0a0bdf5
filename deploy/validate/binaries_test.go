package validate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const kubernetes = "k8s.io/kubernetes"

// binaries returns a folder with kube-apiserver and kubectl of the version in
// go.mod. The first time it builds them, which takes minutes, into a cache.
func binaries(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	version := strings.TrimSpace(run(t, "go", "list", "-m", "-f", "{{.Version}}", kubernetes))
	folder := filepath.Join(cache, "tokenalert", "kubernetes-"+version)
	if _, err := os.Stat(folder); err == nil {
		return folder
	}

	t.Logf("building kube-apiserver and kubectl %s", version)
	require.NoError(t, os.MkdirAll(filepath.Dir(folder), 0o755))
	unfinished, err := os.MkdirTemp(filepath.Dir(folder), "unfinished-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(unfinished) })

	// Unstamped, each would take the other for a version that is too old.
	major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	stamp := "-X k8s.io/component-base/version."
	run(t, "go", "build", "-o", unfinished+"/",
		"-ldflags", "-s -w "+stamp+"gitVersion="+version+" "+stamp+"gitMajor="+major+" "+stamp+"gitMinor="+minor,
		kubernetes+"/cmd/kube-apiserver", kubernetes+"/cmd/kubectl")
	if err := os.Rename(unfinished, folder); err != nil {
		require.DirExists(t, folder, "it is there when another run was quicker; else: %v", err)
	}
	return folder
}

// run returns what a command printed, without what it complained of.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaints
	require.NoError(t, cmd.Run(), "%s: %s", cmd, &complaints)
	return out.String()
}
