package page_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/page"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "page.md")
	require.NoError(t, os.WriteFile(file, []byte("a\n<!-- begin of the run -->\nold\n<!-- end of the run -->\nb\n"), 0o600))
	require.NoError(t, page.Replace(file, "run", "new\n"))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "a\n<!-- begin of the run -->\nnew\n<!-- end of the run -->\nb\n", string(text))
	require.ErrorContains(t, page.Replace(file, "other", ""), "lacks the lines")
	require.ErrorIs(t, page.Replace(file+"x", "run", ""), os.ErrNotExist)
}
