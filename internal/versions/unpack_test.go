package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// packed is an npm archive of these files, closed to others as a careless
// packer leaves them.
func packed(t *testing.T, files ...[2]string) []byte {
	t.Helper()
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	out := tar.NewWriter(zip)
	for _, file := range files {
		require.NoError(t, out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file[0], Mode: 0o600, Size: int64(len(file[1]))}))
		_, err := out.Write([]byte(file[1]))
		require.NoError(t, err)
	}
	require.NoError(t, out.Close())
	require.NoError(t, zip.Close())
	return archive.Bytes()
}

func TestUnpackMakesWhatAnotherUserCanRun(t *testing.T) {
	t.Parallel()
	into := filepath.Join(t.TempDir(), "postgresql")
	require.NoError(t, unpack(packed(t,
		[2]string{"package/native/bin/postgres", "program"},
		[2]string{"package/native/lib/libpq.so.5.18", "library"},
		[2]string{"package/native/share/postgresql/timezonesets/Default", "zones"},
		[2]string{"package/scripts/hydrate-symlinks.js", "script"},
		[2]string{"package/native/pg-symlinks.json", `[
			{"source": "native/lib/libpq.so.5.18", "target": "native/lib/libpq.so.5"},
			{"source": "native/lib/libpq.so.5.18", "target": "native/share/libpq.so"}]`},
	), into))
	for name, mode := range map[string]os.FileMode{
		".": os.ModeDir | 0o755, "bin": os.ModeDir | 0o755, "share/postgresql/timezonesets": os.ModeDir | 0o755,
		"bin/postgres": 0o755, "lib/libpq.so.5.18": 0o644, "lib/libpq.so.5": 0o644, "share/libpq.so": 0o644,
	} {
		info, err := os.Stat(filepath.Join(into, name)) // through links
		require.NoError(t, err)
		assert.Equal(t, mode, info.Mode(), name)
	}
	to, err := os.Readlink(filepath.Join(into, "share/libpq.so"))
	require.NoError(t, err)
	assert.Equal(t, "../lib/libpq.so.5.18", to, "the folder can be moved")
	assert.NoFileExists(t, filepath.Join(into, "scripts/hydrate-symlinks.js"))
}

func TestUnpackStaysInItsFolder(t *testing.T) {
	t.Parallel()
	for name, archive := range map[string][]byte{
		"a file": packed(t, [2]string{"package/native/../../../out", "x"}),
		"through a link": packed(t, [2]string{"package/native/bin/postgres", "x"}, [2]string{
			"package/native/pg-symlinks.json",
			`[{"source": "native/bin/postgres", "target": "native/../../out"}]`,
		}),
		"no archive": []byte("no"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			require.Error(t, unpack(archive, filepath.Join(folder, "postgresql")))
			for _, path := range []string{folder, filepath.Dir(folder)} {
				assert.NoFileExists(t, filepath.Join(path, "out"))
			}
		})
	}
}
