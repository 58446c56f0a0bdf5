package validate

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/api/resmap"
)

type object = map[string]any

func TestAnAPIServerTakesTheManifests(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for name, folder := range kustomizations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resources := build(t, folder)
			asked := objects(t, resources)
			namespaces := namespacesOf(asked)
			for _, namespace := range namespaces {
				c.namespace(t, namespace)
			}
			var in []string // where the kustomization leaves it open
			if len(namespaces) == 0 {
				c.namespace(t, name)
				in = []string{"--namespace", name}
			}

			// As the docs say it is done, and so kubectl's kustomize has its part too.
			c.kubectl(t, "", append(in, "apply", "--server-side", "--validate=strict", "-k", folder)...)
			requireKept(t, asked, c.stored(t, asked, in...))

			// Pod Security only warns of a Deployment. It refuses pods, so those that
			// the Deployments would have are created.
			for _, deployment := range asked {
				if deployment["kind"] != "Deployment" {
					continue
				}
				pod := podOf(deployment)
				c.kubectl(t, text(t, pod), append(in, "create", "--validate=strict", "-f", "-")...)
				requireKept(t, []object{pod}, c.stored(t, []object{pod}, in...))
			}
		})
	}
	t.Run("as the docs say", func(t *testing.T) {
		t.Parallel()
		testDocs(t, c)
	})
	t.Run("and refuses others", func(t *testing.T) {
		t.Parallel()
		testRefusals(t, c)
	})
}

var (
	onKubernetes = regexp.MustCompile("(?ms)^## (?:On Kubernetes|Deliveries)$.*?^## ")
	clusterBlock = regexp.MustCompile("(?ms)^```sh cluster\n(.*?)^```$")
	// needsNodes are commands that wait for pods to run, which here none does.
	needsNodes = regexp.MustCompile(`(?m)^kubectl (rollout status|exec) .*\n`)
)

// testDocs types what docs/operations.md says to type, each block for a cluster
// that has seen none of the others.
func testDocs(t *testing.T, c *cluster) {
	docs, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	var blocks [][][]byte
	for _, section := range onKubernetes.FindAll(docs, -1) {
		blocks = append(blocks, clusterBlock.FindAllSubmatch(section, -1)...)
	}
	require.Len(t, blocks, 3, "two Secrets, one, and that of deliveries")
	kubeconfig, err := os.ReadFile(c.kubeconfig)
	require.NoError(t, err)
	deploy, err := filepath.Abs("..")
	require.NoError(t, err)

	for i, block := range blocks {
		typed := needsNodes.ReplaceAllString(string(block[1]), "")
		if !strings.Contains(typed, "create namespace") {
			namespace := fmt.Sprintf("block-%d", i)
			typed = "kubectl create namespace " + namespace + "\nkubectl config set-context --current --namespace=" + namespace + "\n" + typed
		}
		folder := t.TempDir()
		require.NoError(t, os.Symlink(deploy, filepath.Join(folder, "deploy")))
		for file, content := range map[string][]byte{
			"kubeconfig": kubeconfig,
			"owner-url":  []byte("postgres://platform@db.example.com/cms\n"),
			"worker-url": []byte("postgres://tokenalert@db.example.com/cms\n"),

			"notifications-url": []byte("postgres://tokenalert_bell@lms.example.com/lms\n"),
			"smtp-url":          []byte("smtps://alerts@mail.example.com\n"),
			"webhook-url":       []byte("https://hooks.example.com/alerts\n"),
			"webhook-secret":    []byte("whsec_\n"),
		} {
			require.NoError(t, os.WriteFile(filepath.Join(folder, file), content, 0o600))
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", typed)
		cmd.Dir = folder
		cmd.Env = append(os.Environ(), "KUBECONFIG=kubeconfig", "KUBECACHEDIR="+t.TempDir(),
			"PATH="+filepath.Dir(c.path)+string(os.PathListSeparator)+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", typed, out)
		require.Contains(t, string(out), "deployment.apps/tokenalert serverside-applied")
		require.NotContains(t, string(out), "Warning")
	}
}

// testRefusals sees that what is taken without a word is not taken because
// nobody looks.
func testRefusals(t *testing.T, c *cluster) {
	made, err := build(t, kustomizations["production"]).AsYaml()
	require.NoError(t, err)
	c.namespace(t, "refused")
	in := []string{"--namespace", "refused"}
	c.kubectl(t, string(made), append(in, "apply", "--server-side", "--validate=strict", "-f", "-")...)

	for _, broken := range []struct{ right, wrong, says string }{
		{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "would violate PodSecurity"},
		{"runAsNonRoot: true", "runAsNonRoot: false", "would violate PodSecurity"},
		{"type: RuntimeDefault", "type: Unconfined", "would violate PodSecurity"},
		{"terminationGracePeriodSeconds:", "terminationGraceSeconds:", "field not declared in schema"},
		{"enableServiceLinks:", "enableServiceLink:", "field not declared in schema"},
		{"podMetricsEndpoints:", "podMetricsEndpoint:", "field not declared in schema"},
		{"unhealthyPodEvictionPolicy: AlwaysAllow", "unhealthyPodEvictionPolicy: Always", "Unsupported value"},
	} {
		require.Contains(t, string(made), broken.right)
		manifest := strings.ReplaceAll(string(made), broken.right, broken.wrong)
		_, complaints, err := c.try(t, manifest, append(in, "apply", "--server-side", "--validate=strict", "-f", "-")...)
		require.Error(t, err, broken.wrong)
		require.Contains(t, complaints, broken.says, broken.wrong)
	}

	// What only a pod shows, and a field that is dropped without a word.
	asked := objects(t, build(t, kustomizations["production"]))
	deployment := asked[slices.IndexFunc(asked, func(o object) bool { return o["kind"] == "Deployment" })]
	pod := podOf(deployment)
	spec := pod["spec"].(object)
	spec["hostNetwork"] = true
	_, complaints, err := c.try(t, text(t, pod), append(in, "create", "-f", "-")...)
	require.Error(t, err)
	require.Contains(t, complaints, `violates PodSecurity "restricted:latest": host namespaces`)

	delete(spec, "hostNetwork")
	spec["readonly"] = true
	c.kubectl(t, text(t, pod), append(in, "create", "--validate=ignore", "-f", "-")...)
	require.Equal(t, []string{".spec.readonly"}, missing("", pod, c.stored(t, []object{pod}, in...)[0]))
}

// objects are the resources as JSON has them.
func objects(t *testing.T, resources resmap.ResMap) []object {
	t.Helper()
	var all []object
	for _, resource := range resources.Resources() {
		o, err := resource.Map()
		require.NoError(t, err)
		all = append(all, decoded[object](t, text(t, o)))
	}
	require.NotEmpty(t, all)
	return all
}

func namespacesOf(all []object) []string {
	found := map[string]bool{}
	for _, o := range all {
		if namespace, ok := o["metadata"].(object)["namespace"].(string); ok {
			found[namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// podOf is the pod that a Deployment would have made.
func podOf(deployment object) object {
	template := maps.Clone(deployment["spec"].(object)["template"].(object))
	metadata := maps.Clone(template["metadata"].(object))
	for key, value := range deployment["metadata"].(object) {
		if key == "name" || key == "namespace" {
			metadata[key] = value
		}
	}
	return object{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
}

// stored are the objects as the server has them, in the order in which they are
// asked for.
func (c *cluster) stored(t *testing.T, asked []object, in ...string) []object {
	t.Helper()
	list := text(t, object{"apiVersion": "v1", "kind": "List", "items": asked})
	answer := c.kubectl(t, list, append(in, "get", "-o", "json", "-f", "-")...)
	return decoded[struct{ Items []object }](t, answer).Items
}

// requireKept fails for each field that the server has dropped or changed. What
// it has added are defaults.
func requireKept(t *testing.T, asked, stored []object) {
	t.Helper()
	require.Len(t, stored, len(asked))
	for i := range asked {
		require.Empty(t, missing("", asked[i], stored[i]), "of %s", text(t, asked[i]["metadata"]))
	}
}

// missing are the paths of what was asked for and is not stored.
func missing(path string, asked, stored any) []string {
	var paths []string
	switch asked := asked.(type) {
	case object:
		there, ok := stored.(object)
		if !ok {
			return []string{path}
		}
		for _, key := range slices.Sorted(maps.Keys(asked)) {
			paths = append(paths, missing(path+"."+key, asked[key], there[key])...)
		}
	case []any:
		there, ok := stored.([]any)
		if !ok || len(there) != len(asked) {
			return []string{path}
		}
		for i := range asked {
			paths = append(paths, missing(fmt.Sprintf("%s[%d]", path, i), asked[i], there[i])...)
		}
	default:
		if !reflect.DeepEqual(asked, stored) {
			return []string{path}
		}
	}
	return paths
}

func text(t *testing.T, value any) string {
	t.Helper()
	encoded, err := json.Marshal(value)
	require.NoError(t, err)
	return string(encoded)
}

func decoded[T any](t *testing.T, from string) T {
	t.Helper()
	var value T
	require.NoError(t, json.Unmarshal([]byte(from), &value))
	return value
}
