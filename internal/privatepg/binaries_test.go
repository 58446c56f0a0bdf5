package privatepg

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// programs writes a folder with an initdb and a postgres that print a version.
func programs(t *testing.T, version string, mode os.FileMode) string {
	t.Helper()
	dir := publicDir(t)
	for _, name := range []string{"initdb", "postgres"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho '"+name+" ("+version+"'\n"), 0o600))
		require.NoError(t, os.Chmod(path, mode))
	}
	return dir
}

// publicDir is a temporary folder that the server's account can enter, other
// than t.TempDir for root.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "privatepg-test-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func TestChoose(t *testing.T) {
	t.Parallel()
	acc, err := unprivileged()
	require.NoError(t, err)
	errOffline := errors.New("no network")
	offline := func() (string, error) { return "", errOffline }

	good := programs(t, "PostgreSQL) 16.9 (Debian)", 0o755)
	beta := programs(t, "PostgreSQL) 19beta1", 0o755)
	old := programs(t, "PostgreSQL) 13.21", 0o755)
	closed := programs(t, "PostgreSQL) 16.9", 0o600)
	other := programs(t, "SomethingElse) 16", 0o755)

	for name, test := range map[string]struct {
		dirs []string
		want string
	}{
		"the first":              {[]string{good, beta}, good},
		"a version to come":      {[]string{beta}, beta},
		"not one that is older":  {[]string{old, good}, good},
		"not one that is closed": {[]string{closed, good}, good},
		"not another program":    {[]string{other, good}, good},
		"not one that is gone":   {[]string{"/nonexistent", good}, good},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := choose(t.Context(), acc, test.dirs, offline)
			require.NoError(t, err)
			assert.Equal(t, test.want, dir)
		})
	}

	t.Run("downloaded", func(t *testing.T) {
		t.Parallel()
		dir, err := choose(t.Context(), acc, []string{old}, func() (string, error) { return good, nil })
		require.NoError(t, err)
		assert.Equal(t, good, dir)
	})

	t.Run("none", func(t *testing.T) {
		t.Parallel()
		_, err := choose(t.Context(), acc, []string{old, closed}, offline)
		require.ErrorIs(t, err, errOffline)
		require.ErrorContains(t, err, "install PostgreSQL 14 or later")
		require.ErrorContains(t, err, "is PostgreSQL 13, and 14 is the oldest")
		require.ErrorContains(t, err, closed+"/initdb does not run for user "+acc.name)
	})
}

func TestBinDirIsNotReplaced(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Options{BinDir: "/nonexistent"})
	require.ErrorContains(t, err, "/nonexistent/initdb does not run")
}

func TestLinksInPathAreFollowed(t *testing.T) {
	target := programs(t, "PostgreSQL) 17.5", 0o755)
	links := publicDir(t)
	require.NoError(t, os.Symlink(filepath.Join(target, "initdb"), filepath.Join(links, "initdb")))
	t.Setenv("PATH", links)

	want, err := filepath.EvalSymlinks(target)
	require.NoError(t, err)
	assert.Equal(t, want, installed()[0])
}

func TestMajorIn(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/usr/lib/postgresql/9.6/bin":          9,
		"/usr/lib/postgresql/16/bin":           16,
		"/usr/pgsql-17/bin":                    17,
		"/opt/homebrew/opt/postgresql@14/bin":  14,
		"/usr/libexec/postgresql18":            18,
		"/opt/homebrew/opt/postgresql/bin":     0,
		"/Applications/Postgres.app/16/bin":    16,
		"/usr/local/opt/postgresql@15/9.1/bin": 15,
	} {
		assert.Equal(t, want, majorIn(path), path)
	}
}
