package privatepg

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// archive packs this machine's PostgreSQL the way the library expects it: a
// .jar, which is a zip, around a .txz with bin, lib and share. Where share is
// not beside the programs, as on Debian, its path is built into them.
func archive(t *testing.T, bin string) []byte {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("SKIPPED: packing the archive takes xz, which is not installed")
	}
	var unpacked, packed, jar bytes.Buffer
	files := tar.NewWriter(&unpacked)
	for _, part := range []string{"bin/initdb", "bin/pg_ctl", "bin/postgres", "lib", "share"} {
		pack(t, files, filepath.Dir(bin), part)
	}
	require.NoError(t, files.Close())

	xz := exec.CommandContext(t.Context(), "xz", "-0", "--stdout")
	xz.Stdin, xz.Stdout = &unpacked, &packed
	require.NoError(t, xz.Run())

	entries := zip.NewWriter(&jar)
	entry, err := entries.Create("postgres-any.txz")
	require.NoError(t, err)
	_, err = packed.WriteTo(entry)
	require.NoError(t, err)
	require.NoError(t, entries.Close())
	return jar.Bytes()
}

// pack adds a file, or the files of a folder, if it is there.
func pack(t *testing.T, files *tar.Writer, home, part string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(home, part), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		// The compiler for JIT is most of lib, and optional.
		if err != nil || !entry.Type().IsRegular() || strings.Contains(path, "llvmjit") || strings.Contains(path, "/bitcode/") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(home, path)
		if err != nil {
			return err
		}
		if err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = files.Write(content)
		return err
	})
	require.NoError(t, err)
}

func TestFetch(t *testing.T) {
	t.Parallel()
	acc, err := unprivileged()
	require.NoError(t, err)
	jar := archive(t, filepath.Dir(firstInstalled(t, acc)))
	sum := sha256.Sum256(jar)
	var downloads atomic.Int32
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := jar
		switch {
		case !strings.Contains(r.URL.Path, string(fetchedVersion)):
			http.NotFound(w, r)
			return
		case strings.HasSuffix(r.URL.Path, ".sha256"):
			body = []byte(hex.EncodeToString(sum[:]))
		default:
			downloads.Add(1)
		}
		_, _ = w.Write(body)
	}))
	defer repository.Close()
	cache := publicDir(t)

	// Two at once, as two test binaries may be.
	second := make(chan error, 1)
	go func() {
		_, err := fetch(t.Context(), repository.URL, cache)
		second <- err
	}()
	dir, err := fetch(t.Context(), repository.URL, cache)
	require.NoError(t, err)
	require.NoError(t, <-second)

	assert.EqualValues(t, 1, downloads.Load())
	require.NoError(t, check(t.Context(), dir, acc))
	left, err := filepath.Glob(filepath.Join(cache, "download-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
	if runtime.GOOS == "linux" { // where its libraries are found wherever they are unpacked
		s := start(t, Options{BinDir: dir})
		assert.Equal(t, "on", show(t, connect(t, s.URL("postgres")), "synchronous_commit"))
	}
}

func TestFetchFails(t *testing.T) {
	t.Parallel()
	repository := httptest.NewServer(http.NotFoundHandler())
	defer repository.Close()
	cache := publicDir(t)
	_, err := fetch(t.Context(), repository.URL, cache)
	require.ErrorContains(t, err, "download PostgreSQL "+string(fetchedVersion))

	left, err := filepath.Glob(filepath.Join(cache, "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(cache, "lock")}, left)
}

func TestFetchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		http.NotFound(w, r)
	}))
	defer repository.Close()
	defer close(answer)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := fetch(ctx, repository.URL, publicDir(t))
	require.ErrorIs(t, err, context.Canceled)
}
