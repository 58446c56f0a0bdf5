package transcript

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const page = "# Page\n\n```sh\nname=world\n```\n\n```sh\necho hello $name\ncat <<END\nand more\nEND\n```\n\n```text\nold\n```\n\nprose\n\n```json\n{}\n```\n"

func TestPlaysInOneShell(t *testing.T) {
	t.Parallel()
	played, err := Play(t.Context(), page, t.TempDir(), os.Environ())
	require.NoError(t, err)
	require.Len(t, played, 2)
	assert.Empty(t, played[0].Answer)
	assert.Equal(t, "hello world\nand more", played[1].Answer)
	written := Write(page, played)
	assert.Equal(t, "# Page\n\n```sh\nname=world\n```\n\n```sh\necho hello $name\ncat <<END\nand more\nEND\n```\n\n```text\nhello world\nand more\n```\n\nprose\n\n```json\n{}\n```\n", written)
	again, err := Play(t.Context(), written, t.TempDir(), os.Environ())
	require.NoError(t, err)
	assert.Equal(t, written, Write(written, again))
}

func TestStopsAtTheFirstFailure(t *testing.T) {
	t.Parallel()
	typing, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	played, err := Play(typing, "```sh\nsleep 600 &\necho one\n```\n```sh\necho two\nfalse\necho three\n```\n```sh\necho four\n```\n", t.TempDir(), os.Environ())
	require.ErrorContains(t, err, "a command of these failed")
	require.NoError(t, typing.Err(), "it waited for what runs on")
	require.Len(t, played, 2)
	assert.Equal(t, "two\n", played[1].Answer)
}

// What a page has left in the background ends, and holds up nobody.
func TestEndsWhatRunsOn(t *testing.T) {
	t.Parallel()
	played, err := Play(t.Context(), "```sh\nsleep 600 &\necho on\n```\n", t.TempDir(), os.Environ())
	require.NoError(t, err)
	assert.Equal(t, "on", played[0].Answer)
}

func TestShortensDownloads(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "go: downloading … (2 lines)\ndone", shortened("go: downloading a v1\ngo: downloading b v1\ndone"))
	assert.Equal(t, "done", shortened("done"))
}
