package image

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// manifest is what a Deployment says that an image has to fit.
type manifest struct {
	Spec struct {
		Template struct {
			Spec struct {
				SecurityContext security    `yaml:"securityContext"`
				Containers      []container `yaml:"containers"`
				InitContainers  []container `yaml:"initContainers"`
			}
		}
	}
}

type container struct {
	Name, Image string
	Command     []string
	Ports       []struct {
		ContainerPort int `yaml:"containerPort"`
	}
	SecurityContext security `yaml:"securityContext"`
}

type security struct {
	RunAsUser *int `yaml:"runAsUser"`
}

// fitsManifests compares the image with each container in deploy/ that runs it.
func fitsManifests(t *testing.T, config v1.ImageConfig) {
	t.Helper()
	uid, _, _ := strings.Cut(config.User, ":")
	fitted := 0
	for path, m := range manifests(t) {
		pod := m.Spec.Template.Spec
		for _, c := range append(pod.Containers, pod.InitContainers...) {
			if name, _, _ := strings.Cut(c.Image, ":"); name != "tokenalert" {
				continue
			}
			fitted++
			assert.Empty(t, c.Command, "%s: %s is not begun by the image's entrypoint", path, c.Name)
			for _, port := range c.Ports {
				assert.Contains(t, config.ExposedPorts, strconv.Itoa(port.ContainerPort)+"/tcp", "%s: %s", path, c.Name)
			}
			for _, s := range []security{pod.SecurityContext, c.SecurityContext} {
				if s.RunAsUser != nil {
					assert.Equal(t, uid, strconv.Itoa(*s.RunAsUser), "%s: %s", path, c.Name)
				}
			}
		}
	}
	require.NotZero(t, fitted, "no manifest runs the image")
}

// manifests are all in deploy/, by file and place. What is no Deployment has no
// containers.
func manifests(t *testing.T) map[string]manifest {
	t.Helper()
	all := make(map[string]manifest)
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for documents := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var m manifest
			err := documents.Decode(&m)
			if errors.Is(err, io.EOF) {
				return nil
			}
			// Others than Deployments may have other types where these have maps.
			if _, other := errors.AsType[*yaml.TypeError](err); err != nil && !other {
				return err
			}
			all[path+"#"+strconv.Itoa(len(all))] = m
		}
	}))
	return all
}
