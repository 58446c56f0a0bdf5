package validate

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

var update = flag.Bool("update", false, "write the golden files")

// kustomizations are what people apply, by the name of the golden file.
var kustomizations = map[string]string{
	"base":       "../base",
	"minimal":    "../overlays/minimal",
	"production": "../overlays/production",
	"sharded":    "../overlays/sharded",
	"pooled":     "testdata/pooled",
	"delivering": "testdata/delivering",
}

// build is what `kubectl kustomize` would print, as the resources that it is.
func build(t *testing.T, folder string) resmap.ResMap {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	require.NoError(t, err)
	return resources
}

func TestWhatKustomizeMakes(t *testing.T) {
	t.Parallel()
	for name, folder := range kustomizations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resources := build(t, folder)
			abridge(t, resources)
			made, err := resources.AsYaml()
			require.NoError(t, err)

			golden := filepath.Join("testdata", name+".yaml")
			if *update {
				require.NoError(t, os.WriteFile(golden, made, 0o644))
			}
			kept, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(kept), string(made), "go test -run TestWhatKustomizeMakes -update writes it anew; read what changed")
		})
	}
}

// abridge leaves out what is long and has tests of its own, in deploy/monitoring.
func abridge(t *testing.T, resources resmap.ResMap) {
	t.Helper()
	for _, resource := range resources.Resources() {
		switch {
		case resource.GetKind() == "PrometheusRule":
			require.NoError(t, resource.PipeE(yaml.SetField("spec", yaml.NewStringRNode("..."))))
		case resource.GetLabels()["grafana_dashboard"] != "":
			for file := range resource.GetDataMap() {
				resource.SetDataMap(map[string]string{file: "..."})
			}
		}
	}
}
