package validate

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// The Prometheus Operator's resource definitions are read from its module, which
// is not in go.mod: nothing is compiled from it, and what it requires would
// change what Kubernetes is built of. So its hash stands here.
const (
	prometheusOperator    = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
	prometheusOperatorSum = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
)

// cluster is an API server: what is applied is looked at and stored, and no more
// happens to it. No controller makes pods of a Deployment, and no node runs them.
type cluster struct {
	path, kubeconfig, cache string
}

// startCluster starts an API server on an etcd of its own, with the definitions
// of PodMonitor and PrometheusRule. Both end with the test.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		t.Skipf("an API server needs etcd (Debian: etcd-server): %v", err)
	}
	folder := binaries(t)

	env := &envtest.Environment{
		CRDDirectoryPaths:        monitoringDefinitions(t),
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute, // of a slow machine
		ControlPlaneStopTimeout:  time.Minute,
	}
	env.ControlPlane.Etcd = &envtest.Etcd{Path: etcd}
	server := env.ControlPlane.GetAPIServer()
	server.Path = filepath.Join(folder, "kube-apiserver")
	// As in a cluster, a pod's ServiceAccount must be there.
	server.Configure().Disable("disable-admission-plugins")
	t.Cleanup(func() { require.NoError(t, env.Stop()) })
	_, err = env.Start()
	require.NoError(t, err)

	c := &cluster{path: filepath.Join(folder, "kubectl"), kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), cache: t.TempDir()}
	require.NoError(t, os.WriteFile(c.kubeconfig, env.KubeConfig, 0o600))
	return c
}

// monitoringDefinitions are the files of the Prometheus Operator.
func monitoringDefinitions(t *testing.T) []string {
	t.Helper()
	var module struct{ Dir, Sum string }
	require.NoError(t, json.Unmarshal([]byte(run(t, "go", "mod", "download", "-json", prometheusOperator)), &module))
	require.Equal(t, prometheusOperatorSum, module.Sum)
	definition := func(of string) string {
		return filepath.Join(module.Dir, "example", "prometheus-operator-crd", "monitoring.coreos.com_"+of+".yaml")
	}
	return []string{definition("podmonitors"), definition("prometheusrules")}
}

// try runs kubectl with a manifest as its input, and returns what it printed and
// what it complained of. A warning is an error.
func (c *cluster) try(t *testing.T, manifest string, args ...string) (out, complaints string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.path,
		append([]string{"--kubeconfig", c.kubeconfig, "--cache-dir", c.cache, "--warnings-as-errors"}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(manifest), &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// kubectl is try for what is to succeed, without a word of complaint.
func (c *cluster) kubectl(t *testing.T, manifest string, args ...string) string {
	t.Helper()
	out, complaints, err := c.try(t, manifest, args...)
	require.NoError(t, err, "kubectl %q: %s", args, complaints)
	require.Empty(t, complaints, "kubectl %q", args)
	return out
}

// namespace makes one in which Pod Security is restricted as far as it goes, and
// objections to a Deployment's pods are warnings.
func (c *cluster) namespace(t *testing.T, name string) {
	t.Helper()
	c.kubectl(t, `
apiVersion: v1
kind: Namespace
metadata:
  name: `+name+`
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/enforce-version: latest
    pod-security.kubernetes.io/warn: restricted
    pod-security.kubernetes.io/warn-version: latest
    pod-security.kubernetes.io/audit: restricted
    pod-security.kubernetes.io/audit-version: latest
`, "create", "-f", "-")
}
