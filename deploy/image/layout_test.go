package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// image is what one is made of.
type image struct {
	digest digest.Digest
	config v1.Image
	texts  [][]byte        // manifest and configuration, as they are
	files  map[string]file // all entries of all layers by name, folders too
}

type file struct {
	*tar.Header
	content []byte
}

// read reads the one image of an OCI image layout.
func read(t *testing.T, layout string) image {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(layout, v1.ImageIndexFile))
	require.NoError(t, err)
	var index v1.Index
	require.NoError(t, json.Unmarshal(text, &index))
	require.Len(t, index.Manifests, 1)
	blob := func(d v1.Descriptor) []byte {
		text, err := os.ReadFile(filepath.Join(layout, v1.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
		require.NoError(t, err)
		require.Equal(t, d.Digest, digest.FromBytes(text))
		return text
	}

	img := image{digest: index.Manifests[0].Digest, files: make(map[string]file)}
	var manifest v1.Manifest
	img.texts = append(img.texts, blob(index.Manifests[0]))
	require.NoError(t, json.Unmarshal(img.texts[0], &manifest))
	img.texts = append(img.texts, blob(manifest.Config))
	require.NoError(t, json.Unmarshal(img.texts[1], &img.config))
	for _, layer := range manifest.Layers {
		archive, err := gzip.NewReader(bytes.NewReader(blob(layer)))
		require.NoError(t, err)
		for entries := tar.NewReader(archive); ; {
			header, err := entries.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			content, err := io.ReadAll(entries)
			require.NoError(t, err)
			img.files[header.Name] = file{header, content}
		}
	}
	return img
}
