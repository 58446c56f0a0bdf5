// Package image builds the container image as `make image` does, twice for each
// platform, looks at all that is in it, and runs it.
//
// It takes minutes, and root, buildah and runc; so it is for `make image-test`,
// and skipped by `go test ./...`.
package image

import (
	"bytes"
	"debug/elf"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
)

// maxSize of the image, uncompressed, in bytes.
const maxSize = 20_000_000

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestImage(t *testing.T) {
	if os.Getenv("TEST_IMAGE") == "" {
		t.Skip("SKIPPED: the image takes minutes, root, buildah and runc: make image-test")
	}
	b := newBuilder(t)
	for _, platform := range []struct {
		arch     string
		machine  elf.Machine
		emulator string
	}{
		{"amd64", elf.EM_X86_64, "qemu-x86_64-static"},
		{"arm64", elf.EM_AARCH64, "qemu-aarch64-static"},
	} {
		arch := platform.arch
		t.Run(arch, func(t *testing.T) {
			img := b.build(t, arch)
			assert.Equal(t, v1.Platform{OS: "linux", Architecture: arch}, img.config.Platform)
			require.NotNil(t, img.config.Created)
			assert.True(t, img.config.Created.Equal(epoch), "made at %s", img.config.Created)
			configured(t, img.config.Config)
			nothingOfTheBuild(t, img)

			require.Equal(t, []string{"tokenalert"}, slices.Collect(maps.Keys(img.files)))
			program := img.files["tokenalert"]
			assert.Equal(t, fs.FileMode(0o755), program.FileInfo().Mode())
			assert.Equal(t, [2]int{0, 0}, [2]int{program.Uid, program.Gid}, "its account could change it")
			assert.True(t, program.ModTime.Equal(epoch), "of %s", program.ModTime)
			assert.LessOrEqual(t, program.Size, int64(maxSize))
			stampedAndStatic(t, program.content, platform.machine)
			t.Logf("%s, %.1f MB", img.digest, float64(program.Size)/1e6)

			assert.Equal(t, img.digest, b.build(t, arch).digest, "a second build makes another image")
			if arch == runtime.GOARCH {
				runs(t, img.config.Config, program)
			} else {
				emulated(t, program, platform.emulator)
			}
		})
	}
}

// configured compares all that the image asks of whoever runs it.
func configured(t *testing.T, config v1.ImageConfig) {
	t.Helper()
	assert.Equal(t, v1.ImageConfig{
		User:         "65532:65532",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, // buildah's
		Entrypoint:   []string{"/tokenalert"},
		Cmd:          []string{"run"},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "tokenalert",
			"org.opencontainers.image.description": "Tells each user, once and at once, when their AI tokens reach a threshold of their limit",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.revision":    commit,
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}, config)
}

func stampedAndStatic(t *testing.T, content []byte, machine elf.Machine) {
	t.Helper()
	for _, stamp := range []string{version, commit} {
		assert.True(t, bytes.Contains(content, []byte(stamp)), "%s is not in it", stamp)
	}
	program, err := elf.NewFile(bytes.NewReader(content))
	require.NoError(t, err)
	assert.Equal(t, machine, program.Machine)
	for _, p := range program.Progs {
		assert.NotEqual(t, elf.PT_INTERP, p.Type, "it asks for a dynamic linker")
	}
}

// nothingOfTheBuild looks for the proxy that the build was given, and for where
// it was built, in all that the image says of itself and holds.
func nothingOfTheBuild(t *testing.T, img image) {
	t.Helper()
	texts := img.texts
	for _, f := range img.files {
		texts = append(texts, f.content)
	}
	for _, text := range texts {
		for _, private := range []string{buildProxy, "/src/cmd/", "/go/pkg/mod/"} {
			assert.False(t, bytes.Contains(text, []byte(private)), private)
		}
	}
}
