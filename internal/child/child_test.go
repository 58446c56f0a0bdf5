package child_test

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/child"
)

func TestAChildThatDoesNotEndIsKilled(t *testing.T) {
	t.Parallel()
	p, err := child.Start(exec.Command("cat"), syscall.SIGKILL) // its input is empty
	require.NoError(t, err)
	assert.True(t, p.EndsWithin(time.Minute))
	require.NoError(t, p.Err)

	p, err = child.Start(exec.Command("sleep", "600"), syscall.SIGKILL)
	require.NoError(t, err)
	assert.False(t, p.EndsWithin(time.Millisecond))
	require.ErrorContains(t, p.Err, "killed")
}
